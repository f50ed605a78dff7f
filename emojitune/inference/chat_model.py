"""The base model and the fine-tuned one, ready to answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from emojitune.artifacts import OutputDirectory, UserError, rerun_command
from emojitune.data.samples import sanitize
from emojitune.inference.cached_batch import CachedBatch
from emojitune.inference.label_scoring import label_probabilities, label_token_ids
from emojitune.model.base_model import EMBEDDED, find_base_model
from emojitune.model.loading import (
    load_model,
    load_tokenizer,
    quiet_transformers,
    release_memory,
    select_device,
    select_dtype,
    stop_token_ids,
)


@dataclass(frozen=True)
class ChatModel:
    """A model that answers, by the name that the user knows it by: `base` or `fine-tuned`."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    weights: str  # SHA-256 of the first weight file

    def reply(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        temperature: float = 0.0,
        on_text: Callable[[str], None] | None = None,
    ) -> str:
        """The free reply by `model.generate`, on one line and safe for a terminal; temperature 0 is greedy decoding.

        `on_text` gets the reply in pieces as it comes.
        """
        streamer = TextStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True) if on_text else None
        if streamer:
            streamer.on_finalized_text = lambda text, stream_end=False: on_text(sanitize(text))
        token_ids = torch.tensor([prompt], device=self.model.device)
        with torch.inference_mode(), quiet_transformers():
            output = self.model.generate(
                token_ids,
                attention_mask=torch.ones_like(token_ids),
                # All of sampling is set here: the generation config of an instruction-tuned model would sample.
                do_sample=temperature > 1e-3,  # below, all but one token overflow
                temperature=temperature or None,
                top_p=1.0,
                top_k=0,
                repetition_penalty=1.0,
                max_new_tokens=max_new_tokens,
                eos_token_id=stop_token_ids(self.tokenizer),
                pad_token_id=self.tokenizer.pad_token_id,
                streamer=streamer,
            )
        return self._text(output[0, len(prompt) :])

    def rank_labels(self, prompt: Sequence[int], labels: Sequence[str]) -> list[tuple[str, float]]:
        """The labels with their probabilities when the reply must be one of them, the most probable first."""
        sequences = label_token_ids(self.tokenizer, labels)
        probabilities, _ = label_probabilities(CachedBatch(self.model, [prompt]), [prompt], sequences)
        return sorted(zip(labels, probabilities[0].tolist(), strict=True), key=lambda pair: -pair[1])

    def answer(
        self, batch: CachedBatch, prompts: Sequence[Sequence[int]], labels: Sequence[str], max_new_tokens: int
    ) -> tuple[list[str], torch.Tensor]:
        """The free reply to the prompt of each row, and each label's probability, (prompts, labels).

        The replies are those of greedy decoding one by one, but each pass gives a token of all of them.
        """
        sequences = label_token_ids(self.tokenizer, labels)
        probabilities, logits = label_probabilities(batch, prompts, sequences)
        enough = max(max_new_tokens, 1 + max(map(len, sequences), default=0))  # a label of words may be long
        stops = set(stop_token_ids(self.tokenizer))
        replies: list[list[int]] = [[] for _ in prompts]
        while True:
            for reply, token in zip(replies, logits.argmax(dim=-1).tolist(), strict=True):
                if stops.isdisjoint(reply):
                    reply.append(token)
            if all(reply[-1] in stops or len(reply) == enough for reply in replies):
                return list(map(self._text, replies)), probabilities
            logits = batch.extend_to([[*prompt, *reply] for prompt, reply in zip(prompts, replies, strict=True)])

    def _text(self, reply: Sequence[int]) -> str:
        return sanitize(self.tokenizer.decode(reply, skip_special_tokens=True).strip())


def load_base(run: dict[str, Any] | None, device: str, name: str | None = None) -> ChatModel:
    """The base model of that name, or else the one that was fine-tuned in `run`, or else the embedded one.

    It is called `base`, with its own name where another one was fine-tuned.

    Raises:
        UserError: if it cannot be found, has changed since it was fine-tuned in `run`, or is the result of `run`.
    """
    name = name or (run["base_model"]["name"] if run else EMBEDDED)
    base = find_base_model(name)
    weights = list(base.weights.values())
    if run and run["base_model"]["name"] == name and run["base_model"]["weights"] != base.weights:
        raise UserError(
            f"the weights in {base.folder} have changed since the run that was trained on them: a comparison would not "
            "show what training did; put them back, or train again"
        )
    if run and set(weights) == set(_finetuned_weights(run)):
        raise UserError(f"{base.folder} is the fine-tuned model itself; leave --model out to compare it with its base")
    same = run is None or run["base_model"]["name"] == name
    return _load("base" if same else f"base ({Path(name).name})", base.folder, weights, device)


def load_finetuned(output: OutputDirectory, run: dict[str, Any], device: str) -> ChatModel:
    """The model that 03 wrote and recorded in `run`.

    Raises:
        UserError: if its weights are the base model's: then a comparison would compare a model with itself.
    """
    weights = _finetuned_weights(run)
    if set(weights) == set(run["base_model"]["weights"].values()):
        again = rerun_command("03_train_model.py", output)
        raise UserError(f"{output.model} holds the base model's own weights; train again: {again}")
    return _load("fine-tuned", output.model, weights, device)


def _finetuned_weights(run: dict[str, Any]) -> list[str]:
    return [sha256 for name, sha256 in run["outputs"].items() if name.endswith(".safetensors")]


def _load(name: str, folder: Path, weights: list[str], device: str) -> ChatModel:
    where = select_device(device)
    model, tokenizer = load_model(folder, where, select_dtype(where)), load_tokenizer(folder)
    release_memory()
    return ChatModel(name, model, tokenizer, weights[0])
