"""Check raw rows: every problem is found and named, and a person chooses what is dropped."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from emojitune.artifacts import UserError
from emojitune.data.emojis import are_emojis, fully_qualified, is_single_emoji
from emojitune.data.samples import CONTROL_TOKEN, Sample, is_label, sample_of, sanitize

SHOWN_PROBLEMS = 20

_NOT_TEXT = {
    "half a surrogate pair": re.compile("[\ud800-\udfff]"),
    "a control character": re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"),
    "a token that only the chat template may write": CONTROL_TOKEN,
}


@dataclass(frozen=True)
class Problem:
    """What is wrong with sample `number` of the user's file; a conflict is a text that has other labels elsewhere."""

    number: int
    what: str
    text: str
    kind: Literal["invalid", "repeat", "conflict"] = "invalid"

    def __str__(self) -> str:
        return f"sample {self.number}: {self.what}" + (f": {sanitize(self.text, 60)}" if self.text else "")


def validate(
    rows: Sequence[Any], max_length: int, token_lengths: Callable[[list[list[dict[str, Any]]]], list[int]]
) -> tuple[list[Sample], list[Problem]]:
    """The samples of raw rows (`read_dataset`), and every problem found, in the order of the file.

    `token_lengths` gives the length in tokens of each conversation; more than `max_length` is a problem. Samples that
    repeat or contradict others, or are too long or labelled amiss, are in both lists.
    """
    samples, problems = [], []
    for number, row in enumerate(rows, 1):
        found = _row_problems(row, max_length)
        problems += [Problem(number, what, text[:100]) for what, text in found]
        if not found:
            samples.append(sample_of(number, {**row, "messages": list(map(_normalize, row["messages"]))}))
    lengths = token_lengths([list(sample.messages) for sample in samples])
    problems += [
        Problem(sample.number, f"{length} tokens, above --max-length {max_length}", sample.texts[0])
        for sample, length in zip(samples, lengths, strict=True)
        if length > max_length
    ]
    problems += _label_problems(samples)
    refused = {problem.number for problem in problems}
    problems += _repeats([sample for sample in samples if sample.number not in refused])
    return samples, sorted(problems, key=lambda problem: problem.number)


def _row_problems(row: Any, max_length: int) -> list[tuple[str, str]]:
    """Each problem within one raw row, as (what, text); labels are compared later."""
    if isinstance(row, Problem):
        return [(row.what, row.text)]
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        return [("it must be an object with a list of messages", "" if isinstance(row, dict) else str(row))]
    found = [problem for message in messages if (problem := _message_problem(message, max_length))]
    if found:
        return found
    roles = [message["role"] for message in messages]
    turns = roles[roles[0] == "system" :]
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        return [("roles must be system (or none), then user and assistant in turns", ", ".join(roles))]
    if not any(map(is_label, messages)):
        return [("no reply carries loss, since each has the weight 0", messages[-1]["content"])]
    return []


def _message_problem(message: Any, max_length: int) -> tuple[str, str] | None:
    if not isinstance(message, dict):
        return "each message must be an object with role and content", str(message)
    role, content = message.get("role"), message.get("content")
    if role not in ("system", "user", "assistant"):
        return "a role must be system, user or assistant", str(role)
    if not isinstance(content, str):
        return f"the content of the {role} must be text", str(content)
    if not content.strip():
        return f"the text of the {role} is empty", ""
    if len(content) > 100 * max_length:  # far too long: not worth counting its tokens
        return f"the text of the {role} has {len(content):,} characters, far above --max-length {max_length}", content
    for what, pattern in _NOT_TEXT.items():
        if pattern.search(content):
            return f"the text of the {role} has {what}", content
    if role == "assistant" and message.get("weight") not in (None, 0, 1):
        return "a weight must be 0 or 1", str(message["weight"])
    return None


def _normalize(message: dict[str, Any]) -> dict[str, Any]:
    role, content = message["role"], re.sub(r"\r\n?", "\n", message["content"]).strip()
    if role != "assistant":
        return {"role": role, "content": content}
    return {"role": role, "content": fully_qualified(content)} | ({} if is_label(message) else {"weight": 0})


def _label_problems(samples: Sequence[Sample]) -> Iterator[Problem]:
    """Labels that are not like the others: a dataset has emojis or words, and most of its labels say which."""
    labelled = [(sample.number, label) for sample in samples for label in sample.labels]
    of_emojis = are_emojis(label for _, label in labelled)
    for number, label in labelled:
        if of_emojis and not is_single_emoji(label):
            yield Problem(number, "the label must be exactly one emoji", label)
        elif not of_emojis and are_emojis([label]):
            yield Problem(number, "the label is an emoji, where most labels are words", label)
        elif not of_emojis and (len(label) > 16 or "\n" in label):
            yield Problem(number, "a label of words is one line of at most 16 characters", label)


def _repeats(samples: Sequence[Sample]) -> Iterator[Problem]:
    """Conversations that stand in the file twice (width and white space apart), with the same labels or with others."""
    seen: dict[tuple[str, ...], dict[tuple[str, ...], int]] = {}
    for sample in samples:
        said = (sample.system or "", *sample.texts)
        texts = tuple(" ".join(unicodedata.normalize("NFKC", text).split()) for text in said)
        labels, earlier = tuple(sample.labels), seen.setdefault(texts, {})
        if labels in earlier:
            yield Problem(sample.number, f"the same as sample {earlier[labels]}", sample.texts[0], "repeat")
        elif earlier:
            others, number = next(iter(earlier.items()))
            what = f"labelled {', '.join(labels)}, but {', '.join(others)} in sample {number}"
            yield Problem(sample.number, what, sample.texts[0], "conflict")
        earlier.setdefault(labels, sample.number)


def drop(
    source: str, samples: Sequence[Sample], problems: Sequence[Problem], drop_duplicates: bool, drop_invalid: bool
) -> list[Sample]:
    """The samples of `source` that stay.

    `drop_duplicates` drops exact repeats and lets texts with two labels pass; `drop_invalid` drops all that is refused.

    Raises:
        UserError: if there are problems that neither flag allows for; the first of them are listed.
    """
    refused = [problem for problem in problems if problem.kind == "invalid" or not drop_duplicates]
    if refused and not drop_invalid:
        raise UserError(
            f"{source} has {len(refused):,} problems in {len({problem.number for problem in refused}):,} samples; fix "
            "them, or leave these samples out with --drop-invalid (only exact repeats: --drop-duplicates)\n"
            + format_problems(refused)
        )
    dropped = {problem.number for problem in problems if problem.kind != "conflict" or not drop_duplicates}
    return [sample for sample in samples if sample.number not in dropped]


def format_problems(problems: Sequence[Problem]) -> str:
    """The first problems, a line each, and how many more there are."""
    lines = [f"  {problem}" for problem in problems[:SHOWN_PROBLEMS]]
    more = len(problems) - len(lines)
    return "\n".join([*lines, f"  … and {more:,} more"] if more else lines)
