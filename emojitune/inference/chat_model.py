"""The base model and the fine-tuned one, ready to answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from emojitune.artifacts import OutputDirectory, UserError, rerun_command
from emojitune.data.samples import sanitize
from emojitune.inference.cached_batch import CachedBatch
from emojitune.inference.generation import GenerationSettings, continue_greedily, generate
from emojitune.inference.label_scoring import label_probabilities, label_token_ids
from emojitune.model.base_model import find_base_model
from emojitune.model.loading import load_model, load_tokenizer, select_device, select_dtype
from emojitune.model.prefix_tree import common_prefix_length


@dataclass(frozen=True)
class ChatModel:
    """A model that answers, by the name that the user knows it by: `base` or `fine-tuned`."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    weights: str  # SHA-256 of the first weight file

    def reply(
        self, prompt: Sequence[int], settings: GenerationSettings, on_text: Callable[[str], None] | None = None
    ) -> str:
        """The free reply on one line, safe for a terminal; `on_text` gets it in pieces as it comes."""
        safe = (lambda piece: on_text(sanitize(piece))) if on_text else None
        return sanitize(generate(self.model, self.tokenizer, [prompt], settings, safe)[0])

    def rank_labels(self, prompt: Sequence[int], labels: Sequence[str]) -> list[tuple[str, float]]:
        """The labels with their probabilities when the reply must be one of them, the most probable first."""
        sequences = label_token_ids(self.tokenizer, labels)
        probabilities, _ = label_probabilities(CachedBatch(self.model, 1), [prompt], sequences)
        return sorted(zip(labels, probabilities[0].tolist(), strict=True), key=lambda pair: -pair[1])

    def start_batch(self, prompts: Sequence[Sequence[int]]) -> CachedBatch:
        """A row with what all prompts begin with, such as the system prompt; `select` copies of it for each batch."""
        start = CachedBatch(self.model, 1)
        if shared := common_prefix_length(min(prompts), max(prompts)):  # what these two begin with, all do
            start.extend_to([prompts[0][:shared]])
        return start

    def answer(
        self, batch: CachedBatch, prompts: Sequence[Sequence[int]], labels: Sequence[str], max_new_tokens: int
    ) -> tuple[list[str], torch.Tensor]:
        """The free reply to the prompt of each row, greedily, and each label's probability, (prompts, labels)."""
        sequences = label_token_ids(self.tokenizer, labels)
        probabilities, logits = label_probabilities(batch, prompts, sequences)
        enough = max(max_new_tokens, 1 + max(map(len, sequences), default=0))  # a label of words may be long
        replies = continue_greedily(self.tokenizer, batch, prompts, logits, enough)
        return list(map(sanitize, replies)), probabilities


def load_base(name: str, device: str, run: dict[str, Any] | None = None) -> ChatModel:
    """The base model of that name; `run` is the record of the run that it is to be compared with.

    Raises:
        UserError: if it cannot be found, has changed since it was fine-tuned in `run`, or is the result of `run`.
    """
    base = find_base_model(name)
    weights = list(base.weights.values())
    if run and run["base_model"]["name"] == name and run["base_model"]["weights"] != base.weights:
        raise UserError(
            f"the weights in {base.folder} have changed since the run that was trained on them: a comparison would not "
            "show what training did; put them back, or train again"
        )
    if run and set(weights) == set(_finetuned_weights(run)):
        raise UserError(f"{base.folder} is the fine-tuned model itself; leave --model out to compare it with its base")
    return _load("base", base.folder, weights, device)


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
    model = load_model(folder, where, select_dtype(where))
    return ChatModel(name, model, load_tokenizer(folder), weights[0])
