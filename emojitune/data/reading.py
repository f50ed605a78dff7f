"""Read the datasets that people bring: many formats and shapes become rows with messages."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pyarrow import ArrowException, parquet

from emojitune.artifacts import UserError
from emojitune.data.emojis import are_emojis, fully_qualified
from emojitune.data.samples import DEFAULT_SYSTEM_PROMPT, RESERVED_KEYS, sanitize
from emojitune.data.validation import Problem

WORDS_SYSTEM_PROMPT = "このツイートを分類してください"  # for a table whose labels are words

# The names that a column goes by, the likeliest first; upper and lower case are the same.
TEXT_COLUMNS = ("text", "tweet", "sentence", "content", "本文", "ツイート", "テキスト")
LABEL_COLUMNS = ("label", "emoji", "emotion", "ラベル", "絵文字", "感情")
SYSTEM_COLUMNS = ("system", "system_prompt")
ROLES = {"developer": "system", "human": "user", "model": "assistant", "gpt": "assistant"}

_TABLES, _JSON = (".csv", ".tsv"), (".json", ".jsonl", ".ndjson")


def read_dataset(
    source: str,
    encoding: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    system_column: str | None = None,
) -> tuple[list[Any], str]:
    """The rows of a file, or of a dataset on the hub (owner/name), and a sentence on what was taken as what.

    Rows are {"messages": …, other keys}, not yet checked, or a Problem where the file has no row. What the user does
    not say of the file, here None, is found out.

    Raises:
        UserError: if it cannot be found, decoded or parsed, or if its columns are not recognised.
    """
    path = Path(source)
    is_file = path.parent.is_dir() or path.suffix.lower() in (*_TABLES, *_JSON, ".gz", ".parquet")
    is_on_hub = not is_file and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source)
    rows = _read_hub(source) if is_on_hub else _read_file(path, encoding)
    if not rows:
        raise UserError(f"{source} holds no samples")
    return _as_conversations(rows, source, text_column, label_column, system_column)


# ---- formats -------------------------------------------------------------------------------------------------------


def _read_hub(name: str) -> list[Any]:
    from datasets import load_dataset

    try:
        splits = load_dataset(name)
    except Exception as error:  # the hub's client has an exception of its own for each kind of failure
        reason = sanitize(str(error).strip().split("\n")[0], 150)
        raise UserError(f"{name} is no file, and no dataset that the hub gives ({reason}); check --data") from None
    data = splits["train" if "train" in splits else next(iter(splits))]
    rows = data.to_list()
    for column, feature in data.features.items():
        names = getattr(feature, "names", None)  # classes are stored as their places in a list of names
        for row in rows if names else ():
            row[column] = None if row[column] is None or row[column] < 0 else names[row[column]]
    return rows


def _read_file(path: Path, encoding: str | None) -> list[Any]:
    try:
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
            path = path.with_suffix("") if path.suffix.lower() == ".gz" else path
        if data.startswith(b"PAR1"):
            return _read_parquet(path, data)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise UserError(f"{path} is missing, or a folder; name your dataset with --data") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is broken ({sanitize(str(error), 100)}); write or download it again") from None
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise UserError(f"{path} is a spreadsheet or a zip file; export the table as CSV in UTF-8")
    text = _decode(path, data, encoding)
    if not text.strip():
        raise UserError(f"{path} is empty; it needs samples such as training_data_emotion_jp.json has")
    suffix = path.suffix.lower()
    if suffix in _JSON or (suffix not in _TABLES and text.lstrip().startswith(("[", "{"))):
        return _parse_json(path, re.sub(r"\r\n?", "\n", text))
    return _parse_table(path, text)


def _read_parquet(path: Path, data: bytes) -> list[Any]:
    try:
        return parquet.read_table(io.BytesIO(data)).to_pylist()
    except (ArrowException, OSError, ValueError, OverflowError) as error:  # pyarrow has one for each kind of damage
        raise UserError(f"{path} cannot be read ({sanitize(str(error), 100)}); write it again") from None


def _decode(path: Path, data: bytes, encoding: str | None) -> str:
    encoding = encoding or ("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8")
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except LookupError:
        raise UserError(f"{encoding} is not an encoding; try --encoding cp932 for example") from None
    except UnicodeError as error:
        damage = f"it is damaged at byte {getattr(error, 'start', 0)}; save it again as UTF-8"
    # In a wrong encoding, Japanese has no kana, but half-width ones, private characters or what no encoding has.
    others = ("utf-16-le", "utf-16-be") if b"\0" in data else ("utf-8", "cp932", "euc_jp")
    right, wrong = re.compile("[ぁ-ヿ]"), re.compile("[\ue000-\uf8ff\uff61-\uff9f\ufffd\0]")
    texts = {other: data.decode(other, errors="replace") for other in others}
    best = max(texts, key=lambda other: len(right.findall(texts[other])) - len(wrong.findall(texts[other])))
    advice = damage if best == encoding.lower() else f"try --encoding {best}"
    raise UserError(f"{path} is not text in {encoding.upper()}: {advice}")


def _parse_json(path: Path, text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        rows = _parse_objects(text) if text.lstrip().startswith("{") else []
        if 2 * sum(isinstance(row, dict) for row in rows) > len(rows):
            return rows
        raise UserError(f"{path} is not JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, or as many brackets
        raise UserError(f"{path} is not JSON that can be read: {sanitize(str(error), 100)}") from None
    if not isinstance(value, dict):
        return value if isinstance(value, list) else []
    columns = [list(item.values()) if isinstance(item, dict) else item for item in value.values()]
    columns = [cells for cells in columns if isinstance(cells, list) and cells and not isinstance(cells[0], dict)]
    if len(columns) == len(value) > 1 and len(set(map(len, columns))) == 1:
        return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]  # as pandas writes it
    lists = [key for key, item in value.items() if isinstance(item, list)]
    is_wrapper = len(lists) == 1 and lists[0].casefold() not in ("messages", "conversations")
    return value[lists[0]] if is_wrapper else [value]


def _parse_objects(text: str) -> list[Any]:
    """Objects one after the other: JSONL, or pretty-printed. A broken one is skipped up to the next line with a {."""
    decoder, blank = json.JSONDecoder(), re.compile(r"[\s,]*")
    rows, start, end, line = [], 0, 0, 1
    while (following := blank.match(text, end).end()) < len(text):
        line += text.count("\n", start, following)
        start = following
        try:
            row, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            row = Problem(0, f"line {line} is not JSON", text[start : start + 100].split("\n")[0])
            end = text.find("\n{", start) + 1 or len(text)
        rows.append(row)
    return rows


def _parse_table(path: Path, text: str) -> list[Any]:
    csv.field_size_limit(2**31 - 1)
    header_line = re.split("[\r\n]", re.sub('"[^"]*"', "", text).lstrip("\r\n"), maxsplit=1)[0]
    delimiter = max(",;\t", key=header_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, header, line = [], None, 1
    try:
        for cells in reader:
            if not any(map(str.strip, cells)):
                pass
            elif header is None:
                header = [name.strip().casefold() for name in cells]
                if twice := {name for name in header if name and header.count(name) > 1}:
                    raise UserError(f"{path} has two columns named {', '.join(sorted(twice))}; rename one of them")
            elif len(cells) <= len(header):  # spreadsheets leave out empty cells at the end
                rows.append(dict(zip_longest(header, cells, fillvalue="")))
            else:
                what = f"line {line} has {len(cells)} columns, the header {len(header)}; quote a text with "
                rows.append(Problem(0, f"{what}{delimiter!r} in it", delimiter.join(cells)))
            line = reader.line_num + 1
    except csv.Error:
        raise UserError(
            f"{path}, line {line}: a quotation mark opens a text there that has no proper end; write a mark inside "
            'of a text as "", and put the text into marks'
        ) from None
    return rows


# ---- shapes --------------------------------------------------------------------------------------------------------


def _as_conversations(
    rows: Sequence[Any], source: str, text_column: str | None, label_column: str | None, system_column: str | None
) -> tuple[list[Any], str]:
    rows = [{k.strip().casefold(): v for k, v in row.items() if k} if isinstance(row, dict) else row for row in rows]
    objects = [row for row in rows if isinstance(row, dict)]
    columns = list(dict.fromkeys(name for row in objects for name in row))
    if not columns:
        return rows, "nothing, since no row has named columns"

    def column(chosen: str | None, common_names: Sequence[str]) -> str | None:
        names = [chosen.strip().casefold()] if chosen else common_names
        return next((name for name in names if name in columns), None)

    text, label = column(text_column, TEXT_COLUMNS), column(label_column, LABEL_COLUMNS)
    system = column(system_column, SYSTEM_COLUMNS)
    is_table = text_column or label_column
    shape = next((shape for shape in _SHAPES if set(shape) <= set(columns) and not is_table), None)
    if not (shape or (text and label and text != label)) or (system_column and not system):
        listed = sanitize(", ".join(columns), 200)
        raise UserError(
            f"{source} has the columns {listed}: choose among them with --text-column, --label-column, "
            "--system-column; in a CSV or TSV, the first line must name them"
        )
    if shape:
        used, convert = dict.fromkeys(shape, "the conversation"), _SHAPES[shape]
    else:
        used, convert = {text: "the text", label: "the label"}, partial(_turn, text=text, label=label)
    default_system = None
    if system:
        used[system] = "the system prompt"
    elif not shape:
        labels = [fully_qualified(str(row.get(label)).strip()) for row in objects]
        default_system = DEFAULT_SYSTEM_PROMPT if are_emojis(labels) else WORDS_SYSTEM_PROMPT

    strings = {name for row in objects for name, value in row.items() if isinstance(value, str)}
    kept = [name for name in columns if name in strings and name not in {*used, *RESERVED_KEYS}]
    unused = [name for name in columns if name not in {*used, *kept, "small"}]
    for row in objects:
        messages = _normalize(convert(row), row.get(system) if system else default_system)
        fields = {name: row[name] for name in (*kept, "small") if name in row}
        row.clear()
        row |= {"messages": messages, **fields}
    taken = ", ".join(f"{name} as {meaning}" for name, meaning in used.items())
    taken += f"; the system prompt is {default_system}" if default_system else ""
    taken += f"; kept beside each sample: {', '.join(kept)}" if kept else ""
    taken += f"; not used: {', '.join(unused)}" if unused else ""
    return rows, sanitize(taken, 500)


def _turn(row: dict[str, Any], text: str, label: str) -> list[Any]:
    answer = row.get(label)
    # Classes are often numbers, and floats where pandas found one missing.
    answer = int(answer) if isinstance(answer, float) and answer.is_integer() else answer
    answer = str(answer) if isinstance(answer, int) else answer
    return [{"role": "user", "content": row.get(text)}, {"role": "assistant", "content": answer}]


def _from_alpaca(row: dict[str, Any]) -> list[Any]:
    if not row.get("input"):  # an instruction without input is the text itself
        return _turn(row, "instruction", "output")
    return [{"role": "system", "content": row.get("instruction")}, *_turn(row, "input", "output")]


# What a row is, by the columns that it has.
_SHAPES = {
    ("messages",): lambda row: row.get("messages"),
    ("conversations",): lambda row: row.get("conversations"),
    ("instruction", "input", "output"): _from_alpaca,
    ("instruction", "output"): _from_alpaca,
    ("prompt", "completion"): partial(_turn, text="prompt", label="completion"),
}


def _normalize(messages: Any, system: Any) -> Any:
    """Roles as system, user and assistant, content as text; `system` where the messages have none of their own."""
    if not isinstance(messages, list):
        return messages
    messages = [_normalize_message(message) if isinstance(message, dict) else message for message in messages]
    first = messages[0] if messages and isinstance(messages[0], dict) else {}
    if first.get("role") != "system":
        return [{"role": "system", "content": system}, *messages] if system else messages
    is_empty = first["content"] is None or not str(first["content"]).strip()
    return messages[1:] if is_empty else messages


def _normalize_message(message: dict[str, Any]) -> dict[str, Any]:
    role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))  # ShareGPT
    role = ROLES.get(role.casefold(), role.casefold()) if isinstance(role, str) else role
    parts = content if isinstance(content, list) else []
    if parts and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        content = "".join(part["text"] for part in parts)
    return {**message, "role": role, "content": content}
