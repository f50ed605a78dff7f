"""Conversations become token ids and labels: which tokens carry loss."""

from collections.abc import Sequence
from itertools import groupby

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from emojitune.artifacts import UserError
from emojitune.data.samples import Sample, is_label
from emojitune.model.loading import stop_token_ids

IGNORE_INDEX = -100  # the label of a token that carries no loss, in PyTorch's cross entropy and in TRL


def tokenize(samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase, max_length: int, split: str) -> Dataset:
    """Rows of `input_ids` and `labels`, one per sample; a label is the token itself where it carries loss.

    The replies carry loss, each with the token that ends its turn, and nothing else does.

    Raises:
        UserError: if a sample is longer than `max_length` tokens, or if the chat template would train a model that
            never stops: such a run's loss looks healthy.
    """
    encoded = tokenizer.apply_chat_template(
        [sample.messages for sample in samples], return_dict=True, return_assistant_tokens_mask=True
    )
    stops = stop_token_ids(tokenizer)
    columns = zip(samples, encoded["input_ids"], encoded["assistant_masks"], strict=True)
    rows = []
    for number, (sample, ids, mask) in enumerate(columns, 1):
        what = f"sample {number} of the {split} split"
        if len(ids) > max_length:
            raise UserError(
                f"{what} has {len(ids)} tokens, above --max-length {max_length}; raise it, or leave the sample out"
            )
        labels = _labels(sample, ids, mask, stops)
        supervised = [label for label in labels if label != IGNORE_INDEX]
        if not supervised:
            raise UserError(
                f"{what} has no token that carries loss; choose Gemma, or give the template generation marks"
            )
        if supervised[-1] not in stops:
            raise UserError(
                f"{what} does not learn to stop: the end of its turn carries no loss; choose a Gemma model, or fix "
                "the generation marks of the chat template"
            )
        if ids[:2].count(tokenizer.bos_token_id) > 1:
            raise UserError(f"{what} starts with two <bos>; fix the chat template")
        rows.append({"input_ids": ids, "labels": labels})
    return Dataset.from_list(rows)


def _labels(sample: Sample, ids: Sequence[int], mask: Sequence[int], stops: Sequence[int]) -> list[int]:
    """Many templates mark the line break after a turn as well, which no model is to learn: labels end with the stop."""
    replies = (message for message in sample.messages if message["role"] == "assistant")
    labels = []
    for is_reply, run in groupby(zip(ids, mask, strict=True), key=lambda pair: pair[1]):
        carries_loss = is_reply and is_label(next(replies))
        tokens = [token for token, _ in run]
        end = max((place for place, token in enumerate(tokens) if token in stops), default=len(tokens))
        labels += [token if carries_loss and place <= end else IGNORE_INDEX for place, token in enumerate(tokens)]
    return labels


def highlight_labels(row: dict[str, list[int]], tokenizer: PreTrainedTokenizerBase) -> str:
    """A tokenized sample as text, the tokens that carry loss in 【 】."""
    pairs = zip(row["input_ids"], row["labels"], strict=True)
    text = ""
    for carries_loss, run in groupby(pairs, key=lambda pair: pair[1] != IGNORE_INDEX):
        part = tokenizer.decode([token for token, _ in run])
        text += f"【{part}】" if carries_loss else part
    return text.replace("\n", "⏎")
