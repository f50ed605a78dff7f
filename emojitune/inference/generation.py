"""Prompts and free replies: what the chat and the evaluation ask a model, in the template that training used."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from emojitune.artifacts import UserError
from emojitune.data.samples import CONTROL_TOKEN
from emojitune.inference.cached_batch import CachedBatch
from emojitune.model.loading import quiet_transformers, stop_token_ids

MAX_PROMPT_TOKENS = 1024  # twice the longest conversation that training takes by default; more would only be slow


@dataclass(frozen=True)
class GenerationSettings:
    """How a reply is generated; temperature 0 is greedy decoding."""

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 20


def build_messages(text: str, system: str | None = None) -> list[dict[str, str]]:
    """A new conversation: the system prompt, if there is one, and one text."""
    head = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": text}]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, Any]]) -> list[int]:
    """The token ids that ask for the next reply; no text can end its own turn: control tokens are taken out."""
    texts = [CONTROL_TOKEN.sub("", message["content"]) for message in messages]
    # Tokenizers refuse half a character, a lone surrogate.
    clean = [
        {**message, "content": text.encode(errors="ignore").decode()}
        for message, text in zip(messages, texts, strict=True)
    ]
    return tokenizer.apply_chat_template(clean, add_generation_prompt=True, return_dict=True)["input_ids"]


def truncate_prompt(
    tokenizer: PreTrainedTokenizerBase, text: str, system: str | None, limit: int = MAX_PROMPT_TOKENS
) -> tuple[list[int], bool]:
    """The prompt for one text, and whether the text was cut to fit it into `limit` tokens.

    Raises:
        UserError: if the system prompt alone is longer.
    """
    shortened = text[: 8 * limit]  # no need to tokenize a novel
    while True:
        token_ids = encode_prompt(tokenizer, build_messages(shortened, system))
        if len(token_ids) <= limit:
            return token_ids, shortened != text
        if not shortened:
            raise UserError(f"--system leaves no room for a text: {limit} tokens are the most for both; shorten it")
        shortened = shortened[: len(shortened) * limit // len(token_ids)]


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    on_text: Callable[[str], None] | None = None,
) -> list[str]:
    """The reply to each prompt, by `model.generate`. With one prompt, `on_text` gets the pieces as they come."""
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True) if on_text else None
    if streamer:
        streamer.on_finalized_text = lambda text, stream_end=False: on_text(text)
    # Padded on the left, so that every reply starts at the same position.
    inputs = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    with torch.inference_mode(), quiet_transformers():
        output = model.generate(
            **inputs.to(model.device),
            # All of sampling is set here: the generation config of an instruction-tuned model would sample.
            do_sample=settings.temperature > 1e-3,  # below, all but one token overflow
            temperature=settings.temperature or None,
            top_p=settings.top_p,
            top_k=0,
            repetition_penalty=settings.repetition_penalty,
            max_new_tokens=settings.max_new_tokens,
            eos_token_id=stop_token_ids(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            streamer=streamer,
        )
    replies = output[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(replies, skip_special_tokens=True)]


def continue_greedily(
    tokenizer: PreTrainedTokenizerBase,
    batch: CachedBatch,
    prompts: Sequence[Sequence[int]],
    logits: torch.Tensor,
    max_new_tokens: int,
) -> list[str]:
    """The reply to each prompt by greedy decoding: one token per prompt per pass, until all have ended.

    `batch` holds the prompts, and `logits`, (prompts, vocabulary), are those at their ends.
    """
    stops = set(stop_token_ids(tokenizer))
    replies: list[list[int]] = [[] for _ in prompts]
    active = list(range(len(prompts)))
    for remaining in range(max_new_tokens, 0, -1):
        for index, token in zip(active, logits.argmax(dim=-1).tolist(), strict=True):
            replies[index].append(token)
        unfinished = [row for row, index in enumerate(active) if replies[index][-1] not in stops]
        if remaining == 1 or not unfinished:
            break
        if len(unfinished) < len(active):  # those that ended need not wait for those that ramble
            batch, active = batch.select(unfinished), [active[row] for row in unfinished]
        logits = batch.extend_to([[*prompts[index], *replies[index]] for index in active])
    return [text.strip() for text in tokenizer.batch_decode(replies, skip_special_tokens=True)]
