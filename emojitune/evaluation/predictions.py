"""What a model answers to every turn of the validation split."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, TypeVar

import torch

from emojitune.data.samples import Sample, is_label
from emojitune.inference.cached_batch import CachedBatch
from emojitune.inference.chat_model import ChatModel
from emojitune.inference.prompts import encode_prompt

MAX_NEW_TOKENS = 12  # enough for any emoji with its end of turn, and to show how the base model rambles
BATCH_ROWS = 16  # 32 would put 6 % more padding through the model, and take twice the memory
CONVERSATION = "conversation"  # the value of each field that a multi-turn sample does not have

Progress = Callable[[int], None]  # called with the number of newly finished replies
Item = TypeVar("Item")


@dataclass(frozen=True)
class EvalExample:
    """One reply to predict: the messages before it, and the label that the data gives; turns count from 1, and
    `sample` is the number of the sample in its split."""

    messages: list[dict[str, Any]]
    label: str
    turn: int
    fields: dict[str, str]
    sample: int

    @property
    def text(self) -> str:
        return self.messages[-1]["content"]

    @property
    def earlier(self) -> list[str]:
        """What the user said before `text`."""
        return [message["content"] for message in self.messages[:-1] if message["role"] == "user"]

    @property
    def system(self) -> str | None:
        return self.messages[0]["content"] if self.messages[0]["role"] == "system" else None


@dataclass(frozen=True)
class Prediction(EvalExample):
    """An example with what a model answered: freely, and the probability of each label when it must be one of them."""

    reply: str
    probabilities: dict[str, float]

    @property
    def ranked(self) -> list[str]:
        """The labels, the most probable first."""
        return sorted(self.probabilities, key=lambda label: -self.probabilities[label])

    @property
    def choice(self) -> str:
        return self.ranked[0]

    def as_json(self) -> dict[str, Any]:
        """A row of predictions_….jsonl: of the probabilities, the label's and the top three."""
        row = {name: getattr(self, name) for name in ("earlier", "text", "label", "turn", "reply", "choice")}
        row["probabilities"] = {label: round(self.probabilities[label], 6) for label in self.ranked[:3]}
        return row | {"fields": self.fields, "label_probability": round(self.probabilities[self.label], 9)}


def build_examples(samples: Sequence[Sample], labels: Sequence[str]) -> list[EvalExample]:
    """Every turn that carries loss, after the data's own turns. Left out are those whose label is none of `labels`,
    those of the training split: no model can know them."""
    fields = dict.fromkeys((name for sample in samples for name in sample.fields), CONVERSATION)
    return [
        EvalExample(
            list(sample.messages[:index]),
            message["content"],
            sum(before["role"] == "user" for before in sample.messages[:index]),
            (fields if sample.turns > 1 else {}) | sample.fields,
            sample.number,
        )
        for sample in samples
        for index, message in enumerate(sample.messages)
        if is_label(message) and message["content"] in labels
    ]


def predict(
    model: ChatModel, examples: Sequence[EvalExample], labels: Sequence[str], progress: Progress
) -> list[Prediction]:
    """A prediction for each example. Turns of a conversation go on from the keys and values of the turn before."""
    prompts = [encode_prompt(model.tokenizer, example.messages) for example in examples]
    conversations = [list(turns) for _, turns in groupby(range(len(examples)), lambda index: examples[index].sample)]
    predictions: dict[int, Prediction] = {}

    def answer(rows: list[list[int]]) -> None:
        batch = CachedBatch(model.model, [prompts[turns[0]] for turns in rows])
        for indices in zip(*rows, strict=True):
            replies, scores = model.answer(batch, [prompts[index] for index in indices], labels, MAX_NEW_TOKENS)
            for index, reply, row in zip(indices, replies, scores.tolist(), strict=True):
                e, probabilities = examples[index], dict(zip(labels, row, strict=True))
                predictions[index] = Prediction(e.messages, e.label, e.turn, e.fields, e.sample, reply, probabilities)
            progress(len(indices))

    # The operations of a small model are too short to keep a CPU busy: two batches at a time, each with half of its
    # threads, take 0.8 of the time (docs/experiments.md).
    workers = 2 if model.model.device.type == "cpu" and torch.get_num_threads() > 1 else 1
    threads = torch.get_num_threads() // workers
    waiting = batches(conversations, lambda turns: (len(turns), len(prompts[turns[-1]])))
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        while several := list(islice(waiting, workers)):
            list(pool.map(answer, several))
    return [predictions[index] for index in range(len(examples))]


def batches(items: Sequence[Item], size: Callable[[Item], tuple[int, int]]) -> Iterator[list[Item]]:
    """Batches of items with the same number of turns and of similar length, the two that `size` gives; longest first,
    so that a progress bar errs on the late side."""
    for _, group in groupby(sorted(items, key=size, reverse=True), key=lambda item: size(item)[0]):
        rows = list(group)
        yield from (rows[first : first + BATCH_ROWS] for first in range(0, len(rows), BATCH_ROWS))
