"""Conversations become token ids and labels: which tokens carry loss."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from emojitune.artifacts import UserError
from emojitune.data.samples import Sample
from emojitune.model.loading import stop_token_ids

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

IGNORE_INDEX = -100  # the label of a token that carries no loss, in PyTorch's cross entropy and in TRL


def tokenize(samples: Sequence[Sample], tokenizer: "PreTrainedTokenizerBase", max_length: int, split: str) -> "Dataset":
    """Rows of `input_ids` and `labels`, one per sample; a label is the token itself where it carries loss.

    The replies carry loss, each with the token that ends its turn, and nothing else does.

    Raises:
        UserError: if a sample is longer than `max_length` tokens, or if the chat template would train a model that
            never stops: such a run's loss looks healthy.
    """
    from datasets import Dataset

    encoded = tokenizer.apply_chat_template(
        [list(sample.messages) for sample in samples], return_dict=True, return_assistant_tokens_mask=True
    )
    stops = set(stop_token_ids(tokenizer))
    rows = []
    for number, (sample, ids, mask) in enumerate(
        zip(samples, encoded["input_ids"], encoded["assistant_masks"], strict=True), 1
    ):
        if len(ids) > max_length:
            raise UserError(
                f"sample {number} of the {split} split has {len(ids)} tokens, above --max-length {max_length}; "
                "raise it, or leave the sample out"
            )
        labels = _labels(sample, ids, mask)
        _validate(number, split, ids, labels, stops, tokenizer.bos_token_id)
        rows.append({"input_ids": ids, "labels": labels})
    return Dataset.from_list(rows)


def _labels(sample: Sample, ids: Sequence[int], mask: Sequence[int]) -> list[int]:
    """The labels of one sample: its replies, but for those that the data gives `weight: 0`."""
    weights = [message.get("weight", 1) for message in sample.messages if message["role"] == "assistant"]
    labels, turn = [], -1
    for position, (token, supervised) in enumerate(zip(ids, mask, strict=True)):
        if supervised and not (position and mask[position - 1]):
            turn += 1
        labels.append(token if supervised and weights[min(turn, len(weights) - 1)] else IGNORE_INDEX)
    return labels


def _validate(
    number: int, split: str, ids: Sequence[int], labels: Sequence[int], stops: set[int], bos: int | None
) -> None:
    what = f"sample {number} of the {split} split"
    supervised = [label for label in labels if label != IGNORE_INDEX]
    if not supervised:
        raise UserError(f"{what} has no token that carries loss; the chat template needs generation marks")
    if supervised[-1] not in stops:
        raise UserError(
            f"{what} does not learn to stop: the end of its turn carries no loss; choose a Gemma model, or fix the "
            "generation marks of the chat template"
        )
    if bos is not None and ids.count(bos) > 1:
        raise UserError(f"{what} starts with two <bos>; fix the chat template")


def later_turns_as_single_turns(samples: Sequence[Sample]) -> list[Sample]:
    """Each turn of a conversation after its first, as a conversation of its own with the same system prompt."""
    single = []
    for sample in samples:
        head = [message for message in sample.messages if message["role"] == "system"]
        turns = sample.messages[len(head) :]
        single += [
            Sample(sample.number, (*head, *turns[start : start + 2]), sample.fields)
            for start in range(2, len(turns), 2)
            if turns[start + 1].get("weight", 1)
        ]
    return single


def highlight_labels(row: dict[str, list[int]], tokenizer: Any) -> str:
    """A tokenized sample as text, the tokens that carry loss in 【 】."""
    text, inside = "", False
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        if (label != IGNORE_INDEX) != inside:
            inside = not inside
            text += "【" if inside else "】"
        text += tokenizer.decode([token])
    return (text + ("】" if inside else "")).replace("\n", "⏎")
