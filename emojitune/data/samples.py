"""Conversations: read, validate, select, compare."""

import csv
import io
import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import emoji

from emojitune.artifacts import UserError
from emojitune.emotions import group_label, is_single_emoji

DEFAULT_SYSTEM_PROMPT = "このツイートを絵文字で感情分類してください"

# Two texts above this character-3-gram Jaccard similarity are near duplicates: the same sentence with a word changed.
NEAR_DUPLICATE_SIMILARITY = 0.6

# What a model's chat template writes between the turns. In a text it would end a turn early.
CONTROL_TOKEN = re.compile(r"<(?:start_of_turn|end_of_turn|bos|eos|pad|unk|mask)>|<\|im_(?:start|end)\|>|</?s>")


@dataclass(frozen=True)
class Sample:
    """One conversation with its labels. `number` is its place in the user's file, from 1."""

    number: int
    messages: tuple[dict[str, str], ...]
    small: bool = False  # belongs to the small set that --per-label 10 takes

    @property
    def system(self) -> str | None:
        return self.messages[0]["content"] if self.messages[0]["role"] == "system" else None

    @property
    def texts(self) -> list[str]:
        return [message["content"] for message in self.messages if message["role"] == "user"]

    @property
    def labels(self) -> list[str]:
        return [message["content"] for message in self.messages if message["role"] == "assistant"]

    @property
    def label(self) -> str:
        """The label of the last turn: the one that the sample is counted under."""
        return self.messages[-1]["content"]

    @property
    def turns(self) -> int:
        return len(self.labels)

    def as_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"messages": list(self.messages)}
        return row | {"small": True} if self.small else row


@dataclass(frozen=True)
class Problem:
    """What is wrong with one sample of the user's file."""

    number: int
    what: str
    text: str

    def __str__(self) -> str:
        return f"sample {self.number}: {self.what}" + (f": {printable(self.text, 60)}" if self.text else "")


def printable(text: str, length: int | None = None) -> str:
    """`text` on one line for the screen: control characters, terminal escapes and lone surrogates made harmless."""
    clean = "".join(
        " " if char in "\n\r\t" else "\N{REPLACEMENT CHARACTER}" if unicodedata.category(char) in ("Cc", "Cs") else char
        for char in (text if length is None else text[: length + 1])
    )
    return clean if length is None or len(clean) <= length else clean[:length] + "…"


# ---- reading -------------------------------------------------------------------------------------------------------


class _TwiceTheSameKey(dict):
    """A JSON object that names a key twice: json would keep the last one without a word."""


def _json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(pairs) if len({key for key, _ in pairs}) == len(pairs) else _TwiceTheSameKey(pairs)


def read_rows(path: Path) -> list[Any]:
    """The raw samples of a JSON array, JSONL, CSV or TSV file.

    Raises UserError for a file that is missing, not UTF-8, or not of its format.
    """
    text = _read_utf8(path)
    if not text.strip():
        raise UserError(f"{path} is empty; it needs samples such as training_data_emotion_jp.json has")
    try:
        if path.suffix.lower() in (".csv", ".tsv"):
            return _read_table(path, text)
        if text.lstrip().startswith("["):
            return json.loads(text, object_pairs_hook=_json_object)
        return [_read_line(line) for line in re.split(r"\r\n|\n|\r", text) if line.strip()]
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply for JSON of samples") from None
    except ValueError as error:  # an integer of thousands of digits
        raise UserError(f"{path} is not JSON that can be read: {printable(str(error), 100)}") from None


def _read_line(line: str) -> Any:
    try:
        return json.loads(line, object_pairs_hook=_json_object)
    except (ValueError, RecursionError):
        return Problem(0, "this line is not JSON", line[:200])


def _read_utf8(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; name your dataset with --data") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; name a file with --data") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        for encoding, name in (("utf-16", "UTF-16"), ("cp932", "SHIFT_JIS"), ("euc_jp", "EUC-JP")):
            if encoding == "utf-16" and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
                continue
            try:
                data.decode(encoding)
            except UnicodeDecodeError:
                continue
            target = path.with_name(f"{path.stem}-utf8{path.suffix}")
            raise UserError(
                f"{path} is not UTF-8 but looks like {name}; "
                f"convert it with: iconv -f {name} -t UTF-8 {path} > {target}"
            ) from None
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _read_table(path: Path, text: str) -> list[Any]:
    """Rows of a CSV or TSV file with the columns `text` and `label`, as conversations of one turn."""
    csv.field_size_limit(100_000_000)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        table = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UserError(f"{path} is not a table that can be read: {error}") from None
    columns = set(table[0]) if table else set()
    if not {"text", "label"} <= columns:
        raise UserError(f"{path} needs a first line that names the columns text and label")
    return [
        {
            "messages": [
                {"role": "system", "content": DEFAULT_SYSTEM_PROMPT},
                {"role": "user", "content": row["text"]},
                {"role": "assistant", "content": row["label"]},
            ]
        }
        for row in table
    ]


# ---- validating ----------------------------------------------------------------------------------------------------


def validate(
    rows: Any, max_length: int, token_lengths: Callable[[list[list[dict[str, str]]]], list[int]]
) -> tuple[list[Sample], list[Problem]]:
    """The samples of raw rows, and every problem found, in the order of the file.

    `token_lengths` gives the length in tokens of each conversation; those above `max_length` are problems.
    """
    if not isinstance(rows, list):
        return [], [Problem(1, "the file must hold an array of samples", "")]
    samples, problems = [], []
    for number, row in enumerate(rows, 1):
        if isinstance(row, Problem):
            problems.append(Problem(number, row.what, row.text))
            continue
        found = _problems_of(row, max_length)
        if found:
            problems += [Problem(number, what, text) for what, text in found]
        else:
            samples.append(_normalised(number, row))
    problems += _repeated(samples)
    lengths = token_lengths([list(sample.messages) for sample in samples])
    problems += [
        Problem(sample.number, f"{length} tokens, above --max-length {max_length}", sample.texts[0])
        for sample, length in zip(samples, lengths, strict=True)
        if length > max_length
    ]
    return samples, sorted(problems, key=lambda problem: problem.number)


def _problems_of(row: Any, max_length: int) -> list[tuple[str, str]]:
    """Each problem within one raw row, as (what, text)."""
    if not isinstance(row, dict):
        return [("it must be an object with messages", str(row)[:100])]
    if isinstance(row, _TwiceTheSameKey):
        return [("it names a key twice", "")]
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        return [("it needs a list of messages", "")]
    found = []
    for message in messages:
        if not isinstance(message, dict) or isinstance(message, _TwiceTheSameKey):
            found.append(("each message must be an object with role and content, each once", ""))
        elif message.get("role") not in ("system", "user", "assistant"):
            found.append(("a role must be system, user or assistant", str(message.get("role"))[:100]))
        elif not isinstance(message.get("content"), str):
            found.append((f"the content of the {message['role']} must be text", str(message.get("content"))[:100]))
        else:
            found += [(what, message["content"][:100]) for what in _text_problems(message, max_length)]
    if not found:
        roles = [message["role"] for message in messages]
        turns = roles[1:] if roles[0] == "system" else roles
        if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
            found.append(("roles must be system (or none), then user and assistant in turns", ", ".join(roles)[:100]))
    return found


def _text_problems(message: dict[str, Any], max_length: int) -> Iterator[str]:
    role, content = message["role"], message["content"]
    if not content.strip():
        yield f"the text of the {role} is empty"
    elif len(content) > 100 * max_length:  # far too long: not worth counting its tokens
        yield f"the text of the {role} has {len(content):,} characters, far above --max-length {max_length} tokens"
    elif any(unicodedata.category(char) == "Cs" for char in content):
        yield f"the text of the {role} has half a surrogate pair"
    elif any(unicodedata.category(char) == "Cc" and char not in "\n\r\t" for char in content):
        yield f"the text of the {role} has a control character"
    elif CONTROL_TOKEN.search(content):
        yield f"the text of the {role} has a token that only the chat template may write"
    elif role == "assistant" and not is_single_emoji(content.strip()):
        yield "the label must be exactly one emoji"


def _normalised(number: int, row: dict[str, Any]) -> Sample:
    messages = tuple(
        {
            "role": message["role"],
            "content": qualified(message["content"].strip())
            if message["role"] == "assistant"
            else re.sub(r"\r\n?", "\n", message["content"]).strip(),
        }
        for message in row["messages"]
    )
    return Sample(number, messages, row.get("small") is True)


def qualified(label: str) -> str:
    """The fully qualified form of an emoji: ☹ becomes ☹️, so that one emoji is one label."""
    with_selector = label + "\N{VARIATION SELECTOR-16}"
    status = emoji.EMOJI_DATA[label]["status"]
    if status != emoji.STATUS["fully_qualified"] and with_selector in emoji.EMOJI_DATA:
        return with_selector
    return label


def _repeated(samples: Sequence[Sample]) -> list[Problem]:
    """Conversations that stand in the file twice, with the same labels or with others."""
    first: dict[tuple[str, ...], Sample] = {}
    problems = []
    for sample in samples:
        earlier = first.setdefault(tuple(normalised_text(text) for text in sample.texts), sample)
        if earlier is sample:
            continue
        if earlier.labels == sample.labels:
            what = f"the same as sample {earlier.number}"
        else:
            what = f"labelled {''.join(sample.labels)}, but {''.join(earlier.labels)} in sample {earlier.number}"
        problems.append(Problem(sample.number, what, sample.texts[0]))
    return problems


# ---- selecting -----------------------------------------------------------------------------------------------------


def with_turns(samples: Sequence[Sample], turns: str) -> list[Sample]:
    """Only the single-turn samples (`single`), only the others (`multi`), or `all`."""
    return [sample for sample in samples if turns == "all" or (sample.turns == 1) == (turns == "single")]


def with_labels(samples: Sequence[Sample], labels: Sequence[str]) -> list[Sample]:
    """The samples whose every label is one of `labels`."""
    return [sample for sample in samples if set(sample.labels) <= set(labels)]


def with_group_labels(samples: Sequence[Sample]) -> list[Sample]:
    """Every label replaced by the emoji of its emotion group. Raises UserError for a label of no known group."""
    unknown = sorted({label for sample in samples for label in sample.labels if group_label(label) is None})
    if unknown:
        raise UserError(f"--groups knows no emotion group for {' '.join(unknown)}; see emojitune/emotions.py")
    return [
        Sample(
            sample.number,
            tuple(
                {**message, "content": group_label(message["content"])} if message["role"] == "assistant" else message
                for message in sample.messages
            ),
            sample.small,
        )
        for sample in samples
    ]


def balanced(
    samples: Sequence[Sample], per_label: int | None = None, weights: dict[str, float] | None = None
) -> list[Sample]:
    """At most `per_label` samples of each label, times its weight (1 where not given).

    Without `per_label`, as many as the scarcest label allows in that proportion. No sample is repeated: a copy teaches
    nothing new, and one on each side of the split would be a leak. The small set comes first, then the file's order.
    """
    weights = weights or {}
    by_label = samples_by_label(samples)
    if per_label is None:
        per_label = min(len(group) / weights.get(label, 1) for label, group in by_label.items())
    kept = [
        sample
        for label, group in by_label.items()
        for sample in sorted(group, key=lambda sample: not sample.small)[
            : math.floor(per_label * weights.get(label, 1) + 0.5)
        ]
    ]
    return sorted(kept, key=lambda sample: sample.number)


def at_most(samples: Sequence[Sample], count: int) -> list[Sample]:
    """`count` samples, taken from the labels in turn so that none is left out before it must be."""
    ranked = [
        (rank, sample)
        for group in samples_by_label(samples).values()
        for rank, sample in enumerate(sorted(group, key=lambda sample: not sample.small))
    ]
    ranked.sort(key=lambda item: item[0])
    return sorted((sample for _, sample in ranked[:count]), key=lambda sample: sample.number)


def samples_by_label(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    grouped: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        grouped[sample.label].append(sample)
    return dict(grouped)


# ---- comparing -----------------------------------------------------------------------------------------------------


def normalised_text(text: str) -> str:
    """NFKC, with every run of white space as one space: texts that differ in width only are the same."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def trigrams(text: str) -> frozenset[str]:
    """The character 3-grams of a text after NFKC, white space left out; a shorter text is its own only gram."""
    squeezed = "".join(unicodedata.normalize("NFKC", text).split())
    return frozenset(squeezed[start : start + 3] for start in range(max(1, len(squeezed) - 2)))


def near_duplicates(
    texts: Sequence[str], similarity: float = NEAR_DUPLICATE_SIMILARITY
) -> Iterator[tuple[int, int, float]]:
    """Every pair (i, j, Jaccard similarity) of texts, i < j, with a similarity above `similarity`. Exact.

    Prefix filtering (Chaudhuri et al. 2006; Bayardo et al. 2007): sort each text's 3-grams by how rare they are; two
    texts above the threshold must share one of their rarest, so only those are indexed. MinHash would be about as fast
    here and miss some of the pairs near the threshold.
    """
    sets = [trigrams(text) for text in texts]
    frequency = Counter(gram for grams in sets for gram in grams)
    index: dict[str, list[int]] = defaultdict(list)
    for later, grams in enumerate(sets):
        prefix = len(grams) - math.ceil(similarity * len(grams)) + 1
        rarest = sorted(grams, key=lambda gram: (frequency[gram], gram))[:prefix]
        for earlier in {candidate for gram in rarest for candidate in index[gram]}:
            other = sets[earlier]
            smaller, larger = sorted((len(grams), len(other)))
            if smaller <= similarity * larger:
                continue
            shared = len(grams & other)
            found = shared / (len(grams) + len(other) - shared)
            if found > similarity:
                yield earlier, later, found
        for gram in rarest:
            index[gram].append(later)


def clusters_of(samples: Sequence[Sample]) -> list[list[int]]:
    """Indices of `samples` in clusters: those linked by near duplicate texts (identical ones included) are together."""
    owner, texts = [], []
    for index, sample in enumerate(samples):
        for text in sample.texts:
            owner.append(index)
            texts.append(text)
    parent = list(range(len(samples)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for first, second, _ in near_duplicates(texts):
        parent[root(owner[second])] = root(owner[first])
    clusters: dict[int, list[int]] = defaultdict(list)
    for index in range(len(samples)):
        clusters[root(index)].append(index)
    return list(clusters.values())


# ---- describing ----------------------------------------------------------------------------------------------------

_JAPANESE = re.compile(r"[\u3000-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef々〆〤]")


def japanese_share(texts: Iterable[str]) -> float:
    """The share of characters, white space left out, that are kana, kanji or Japanese punctuation."""
    characters = "".join("".join(texts).split())
    return len(_JAPANESE.findall(characters)) / max(1, len(characters))


def load_samples(rows: Iterable[dict[str, Any]]) -> list[Sample]:
    """Samples of an artifact that 01 or 02 wrote; its rows are valid already."""
    return [Sample(number, tuple(row["messages"]), row.get("small", False)) for number, row in enumerate(rows, 1)]
