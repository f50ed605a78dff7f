"""One stateless reply: prompt, generate or choose, stream."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TextStreamer
from transformers.generation.streamers import BaseStreamer

from emojitune.dataset import CONTROL_TOKEN
from emojitune.model import quiet_transformers, stop_tokens
from emojitune.prefix_tree import logits_only_at, prefix_tree

MAX_PROMPT_TOKENS = 1024  # twice the longest conversation that training takes by default; more would only be slow


@dataclass(frozen=True)
class Generation:
    """How a reply is generated. Greedy at temperature 0: the likeliest token each time."""

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 20


GREEDY = Generation()


# ---- prompts -------------------------------------------------------------------------------------------------------


def conversation(text: str, system: str | None = None) -> list[dict[str, str]]:
    """A new conversation: the system prompt, when there is one, and one tweet."""
    head = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": text}]


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> list[int]:
    """The tokens that ask for the next reply. Training, evaluation and chat all build their prompts by this template.

    A text cannot end its own turn: what looks like a token of the template is taken out of it.
    """
    clean = [{**message, "content": CONTROL_TOKEN.sub("", message["content"])} for message in messages]
    return tokenizer.apply_chat_template(clean, add_generation_prompt=True, return_dict=True)["input_ids"]


def fitting_prompt(
    tokenizer: PreTrainedTokenizerBase, text: str, system: str | None, limit: int = MAX_PROMPT_TOKENS
) -> tuple[list[int], bool]:
    """The prompt for one input, and whether its text had to be cut to fit `limit` tokens."""
    text = "".join(char for char in text if not 0xD800 <= ord(char) <= 0xDFFF)  # half a surrogate pair is no text
    shortened = text[: 8 * limit]  # no need to tokenize a novel
    while True:
        tokens = prompt_tokens(tokenizer, conversation(shortened, system))
        if len(tokens) <= limit or not shortened:
            return tokens, shortened != text
        shortened = shortened[: min(len(shortened) - 1, len(shortened) * limit // len(tokens))]


# ---- free replies --------------------------------------------------------------------------------------------------


class _Pieces(TextStreamer):
    def __init__(self, tokenizer: PreTrainedTokenizerBase, write: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.write(text)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    generation: Generation = GREEDY,
    write: Callable[[str], None] | None = None,
) -> list[str]:
    """The model's own reply to each prompt. With one prompt, `write` gets the pieces as they come.

    Every setting is given here: the generation config of an instruct model would sample.
    """
    longest = max(map(len, prompts))
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    # On the left, so that every reply starts at the same place.
    rows = [[padding] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    seen = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if generation.temperature > 0:
        sampling = {"do_sample": True, "temperature": generation.temperature, "top_p": generation.top_p, "top_k": 0}
    streamer: BaseStreamer | None = _Pieces(tokenizer, write) if write else None
    with torch.inference_mode(), quiet_transformers():
        output = model.generate(
            input_ids=torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(seen, device=model.device),
            max_new_tokens=generation.max_new_tokens,
            repetition_penalty=generation.repetition_penalty,
            eos_token_id=stop_tokens(tokenizer),
            pad_token_id=padding,
            streamer=streamer,
            **sampling,
        )
    return [text.strip() for text in tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)]


# ---- replies restricted to labels ----------------------------------------------------------------------------------


def label_sequences(tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> list[list[int]]:
    """The tokens of each label; with the end of the turn where another label goes on from them, so that the shorter
    one does not win by being a part of the longer."""
    sequences = [tokenizer.encode(label, add_special_tokens=False) for label in labels]
    end = stop_tokens(tokenizer)[-1]
    return [
        [*own, end] if any(other is not own and other[: len(own)] == own for other in sequences) else own
        for own in sequences
    ]


def _arranged(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]]
) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Model inputs, and the place of each sequence's last token, as row and place in it: one prefix tree, or rows where
    some layers see less far than the longest sequence and one mask would not do for all."""
    longest = max(map(len, sequences))
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if not window or longest <= window:
        tree = prefix_tree(sequences)
        place = torch.tensor([path[-1] for path in tree.paths], device=model.device)
        return tree.model_inputs(model.device, model.dtype), torch.zeros_like(place), place
    filling = [longest - len(sequence) for sequence in sequences]
    rows = {
        "input_ids": [[*sequence, *[0] * fill] for sequence, fill in zip(sequences, filling, strict=True)],
        "attention_mask": [[1] * (longest - fill) + [0] * fill for fill in filling],
    }
    place = torch.tensor([len(sequence) - 1 for sequence in sequences], device=model.device)
    inputs = {name: torch.tensor(values, device=model.device) for name, values in rows.items()}
    return inputs, torch.arange(len(sequences), device=model.device), place


@torch.inference_mode()
def label_probabilities(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    labels: Sequence[str],
) -> torch.Tensor:
    """How likely each label is as the reply, given that the reply is one of them; (prompts, labels), float64 on CPU.

    The probability of a label is that of its whole token sequence. All prompts and all beginnings of labels go through
    the model as one prefix tree if they can: the system prompt once, and one more token for a label of two.
    """
    sequences = label_sequences(tokenizer, labels)
    wanted = sorted({token for sequence in sequences for token in sequence})
    column = {token: index for index, token in enumerate(wanted)}
    # The prompt itself is the last "beginning", so that the places that need all words come first.
    beginnings = sorted({tuple(sequence[:cut]) for sequence in sequences for cut in range(len(sequence))}, reverse=True)
    inputs, row, place = _arranged(model, [[*prompt, *start] for start in beginnings for prompt in prompts])
    # What normalises the first token is the same for all labels of a prompt and cancels; that of later ones does not.
    later = len(prompts) * (len(beginnings) - 1)
    words = torch.tensor(wanted, device=model.device)
    with logits_only_at(model, row, place, later, words):
        logits = model(**inputs, use_cache=False).logits
    log_probabilities = logits[:, words].double()
    log_probabilities[:later] -= logits[:later].float().logsumexp(-1, keepdim=True)
    after = dict(zip(beginnings, log_probabilities.cpu().view(len(beginnings), len(prompts), len(wanted)), strict=True))
    totals = [
        sum(after[tuple(sequence[:cut])][:, column[token]] for cut, token in enumerate(sequence))
        for sequence in sequences
    ]
    return torch.stack(totals, dim=1).softmax(-1)
