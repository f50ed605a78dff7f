"""Samples: conversations with their labels, and how some of them are chosen."""

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from emojitune.artifacts import UserError
from emojitune.data.emojis import GROUP_EMOJI, LABELS, emotion_group

DEFAULT_SYSTEM_PROMPT = "このツイートを絵文字で感情分類してください"

# What a model's chat template writes between the turns. In a text it would end a turn early.
CONTROL_TOKEN = re.compile(r"<(?:start_of_turn|end_of_turn|bos|eos|pad|unk|mask)>|<\|im_(?:start|end)\|>|</?s>")

RESERVED_KEYS = frozenset({"id", "text", "label", "messages", "small"})  # of a row; all other strings are fields


@dataclass(frozen=True)
class Sample:
    """One conversation with its labels. A message has role, content, and "weight": 0 if it is a reply without loss."""

    number: int  # its place in the user's file, from 1
    messages: tuple[dict[str, Any], ...]
    fields: dict[str, str] = field(default_factory=dict)  # what else the file says of it; step 5 reports by these
    small: bool = False  # member of the fixed small set that --per-label 10 takes

    @property
    def system(self) -> str | None:
        return self.messages[0]["content"] if self.messages[0]["role"] == "system" else None

    @property
    def texts(self) -> list[str]:
        return [message["content"] for message in self.messages if message["role"] == "user"]

    @property
    def labels(self) -> list[str]:
        return [message["content"] for message in self.messages if is_label(message)]

    @property
    def label(self) -> str:
        """The last label: the one that the sample is counted under."""
        return self.labels[-1]

    @property
    def turns(self) -> int:
        return len(self.texts)

    def as_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"messages": list(self.messages), **self.fields}
        return row | {"small": True} if self.small else row


def is_label(message: dict[str, Any]) -> bool:
    """True for a message of the assistant that carries loss."""
    return message["role"] == "assistant" and message.get("weight") != 0


def sample_of(number: int, row: dict[str, Any]) -> Sample:
    """The sample of a valid row; its strings that are neither text nor label are the fields, fit for the screen."""
    fields = {
        sanitize(key, 100): sanitize(value, 100)
        for key, value in row.items()
        if isinstance(value, str) and key not in RESERVED_KEYS
    }
    return Sample(number, tuple(row["messages"]), fields, row.get("small") is True)


def load_samples(rows: Iterable[dict[str, Any]]) -> list[Sample]:
    """Samples of an artifact that step 1 or 2 wrote; its rows are valid already."""
    return [sample_of(number, row) for number, row in enumerate(rows, 1)]


def sanitize(text: str, length: int | None = None) -> str:
    """`text` on one line for the screen: no control characters, terminal escapes or unpaired surrogates."""
    clean = re.sub("[\n\r\t]", " ", text[:length])
    clean = re.sub("[\0-\x1f\x7f-\x9f\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", clean)
    return clean + "…" if len(clean) < len(text) else clean


def count_labels(labels: Iterable[str]) -> dict[str, int]:
    """Counts of labels: the 25 of the shipped dataset first, in their order."""
    counts = Counter(labels)
    return {label: counts[label] for label in (*LABELS, *sorted(set(counts) - set(LABELS))) if label in counts}


def filter_by_turns(samples: Iterable[Sample], turns: str) -> list[Sample]:
    """Only the single-turn samples (`single`), only the others (`multi`), or `all`."""
    return [sample for sample in samples if turns == "all" or (sample.turns == 1) == (turns == "single")]


def filter_by_labels(samples: Iterable[Sample], labels: Sequence[str]) -> list[Sample]:
    """The samples whose every label is one of `labels`."""
    return [sample for sample in samples if set(sample.labels) <= set(labels)]


def map_to_groups(samples: Sequence[Sample]) -> list[Sample]:
    """Every label replaced by the emoji of its emotion group.

    Raises:
        UserError: if a label belongs to no known group.
    """
    groups = {label: emotion_group(label) for sample in samples for label in sample.labels}
    if unknown := sorted(label for label, group in groups.items() if not group):
        names = ", ".join(unknown[:20])
        raise UserError(f"--groups knows no group for {names}; leave it out, or add them in emojitune/data/emojis.py")

    def grouped(message: dict[str, Any]) -> dict[str, Any]:
        return {**message, "content": GROUP_EMOJI[groups[message["content"]]]} if is_label(message) else message

    return [replace(sample, messages=tuple(map(grouped, sample.messages))) for sample in samples]


def balance(
    samples: Sequence[Sample], per_label: int | None = None, weights: dict[str, float] | None = None
) -> list[Sample]:
    """At most `per_label` samples of each label, times its weight (1 where not given).

    Without `per_label`, as many as the rarest label allows in that proportion. No sample is repeated: a copy teaches
    nothing new, and one on each side of the split would be a leak. The small set comes first, then the file's order.
    """
    by_label = _by_label(samples)
    weight_of = {label: (weights or {}).get(label, 1) for label in by_label}
    if per_label is None:
        per_label = min((len(group) / weight_of[label] for label, group in by_label.items()), default=0)
    kept = []
    for label, group in by_label.items():
        kept += group[: math.floor(per_label * weight_of[label] + 0.5)]
    return sorted(kept, key=lambda sample: sample.number)


def subsample(samples: Sequence[Sample], count: int) -> list[Sample]:
    """`count` samples, taken from the labels in turn so that none is left out before it must be."""
    in_turn = [sample for turn in zip_longest(*_by_label(samples).values()) for sample in turn if sample]
    return sorted(in_turn[:count], key=lambda sample: sample.number)


def draw(samples: Sequence[Sample], count: int) -> list[Sample]:
    """`count` samples at random, always the same ones, in their order: what is measured on them holds for all."""
    return sorted(random.Random(42).sample(samples, min(count, len(samples))), key=lambda sample: sample.number)


def _by_label(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """The samples of each label, those of the small set first."""
    grouped: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        grouped[sample.label].append(sample)
    return {label: sorted(group, key=lambda sample: not sample.small) for label, group in grouped.items()}
