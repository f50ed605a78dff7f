"""What people bring: formats, shapes, columns, encodings; files of `cases/` as their owners expect them."""

import gzip
import io
import json

import datasets
import pyarrow
import pytest
from conftest import sample
from pyarrow import parquet

from emojitune.artifacts import UserError
from emojitune.data.reading import WORDS_SYSTEM_PROMPT, read_dataset
from emojitune.data.validation import drop, validate

SHORT = [sample("ある日の出来事", "😀"), sample("ぜんぜん違う話", "😭")]
TABLE = [{"text": row["messages"][1]["content"], "label": row["messages"][2]["content"]} for row in SHORT]


def read(path, **options):
    return read_dataset(str(path), **options)[0]


def samples_of(path, **options):
    samples, problems = validate(read(path, **options), 512, lambda rows: [9] * len(rows))
    return drop(path.name, samples, problems, drop_duplicates=False, drop_invalid=False)


# ---- formats -------------------------------------------------------------------------------------------------------


def parquet_of(rows):
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in SHORT)
CSV = "text,label\n" + "\n".join(f"{row['text']},{row['label']}" for row in TABLE)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (SHORT, "a.json"),
        ({"meta": "x", "rows": SHORT}, "a.json"),
        (LINES, "a.jsonl"),
        (LINES.replace("\n", "\r\n"), "a.txt"),
        (LINES.replace("\n", ""), "a.json"),
        (LINES.replace("\n", ",\n") + ",\n", "a.jsonl"),
        ("\n".join(json.dumps(row, indent=2) for row in SHORT), "a.jsonl"),
        (b"\xef\xbb\xbf" + LINES.encode(), "a.jsonl"),
        (json.dumps(SHORT).encode("utf-16"), "a.json"),
        (gzip.compress(CSV.encode(), mtime=0), "a.csv.gz"),
        (gzip.compress(LINES.encode(), mtime=0), "a"),
        ({key: [row[key] for row in TABLE] for key in TABLE[0]}, "a.json"),
        ({key: {str(n): row[key] for n, row in enumerate(TABLE)} for key in TABLE[0]}, "a.json"),
        (CSV, "a.csv"),
        (CSV.replace(",", "\t"), "a.tsv"),
        (CSV.replace(",", ";").replace("\n", "\r\n\r\n") + "\r\n;\r\n", "a.csv"),
        (parquet_of(TABLE), "a.parquet"),
        (parquet_of(SHORT), "a.parquet"),
        (gzip.compress(parquet_of(TABLE), mtime=0), "a.gz"),
    ],
)
def test_the_same_samples_in_every_format(data, name, write_data):
    assert read(write_data(data, name)) == SHORT


@pytest.mark.parametrize("header", ["n;text;label\n", "n;text;label\r", '"n,,,";text;label\n'])
def test_a_quoted_text_keeps_its_commas_and_lines(header, write_data):
    rows = read(write_data(header + '1;"ある日,,,,; の\n出来""事""";😀\n', "a.csv"))
    assert rows[0]["messages"][1]["content"] == 'ある日,,,,; の\n出来"事"'


def test_empty_cells_at_the_end_of_a_line_may_be_left_out(write_data):
    rows = read(write_data(CSV.replace("label", "label,note,more") + ",x", "a.csv"))
    assert [row | {"messages": []} for row in rows] == [{"messages": [], "note": n, "more": ""} for n in ("", "x")]


def test_a_broken_line_of_jsonl_is_one_problem_with_its_line(write_data):
    rows = read(write_data(LINES.replace("\n", '\n{"messages": oops\n  more\n'), "a.jsonl"))
    assert [row for row in rows if isinstance(row, dict)] == SHORT
    assert [row.what for row in rows if not isinstance(row, dict)] == ["line 2 is not JSON"]


def test_a_dataset_of_the_hub(monkeypatch, tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["😀", "😭"])})
    rows = [{**row, "label": index} for index, row in enumerate(TABLE)]
    train = datasets.Dataset.from_list(rows, features=features)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: {"test": None, "train": train})
    assert read("owner/name.v1") == SHORT
    for path in ("owner/name.csv", tmp_path / "none.json", tmp_path):
        with pytest.raises(UserError, match=f"{path} is missing, or a folder"):
            read(path)

    def unreachable(name):
        raise ConnectionError(f"cannot reach {name}\nand more")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(UserError, match=r"owner/name is no file.*cannot reach owner/name\)"):
        read("owner/name")


# ---- shapes and columns --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"instruction": "ねむい", "input": "", "output": "😴"}, sample("ねむい", "😴", None)),
        ({"instruction": "一つで", "input": "ねむい", "output": "😴"}, sample("ねむい", "😴", "一つで")),
        ({"prompt": "ねむい", "completion": "😴"}, sample("ねむい", "😴", None)),
        ({"ツイート": "ねむい", "ラベル": "😴"}, sample("ねむい", "😴")),
        ({"text": "ねむい", "label": ":sleeping:"}, sample("ねむい", ":sleeping:")),
        ({"Sentence ": "ねむい", "Emotion": "😴", "System_Prompt": ""}, sample("ねむい", "😴", None)),
        ({"text": "買って", "label": 1}, sample("買って", "1", WORDS_SYSTEM_PROMPT)),
        ({"text": "買って", "label": 1.0}, sample("買って", "1", WORDS_SYSTEM_PROMPT)),
        ({"system": "一つで", **sample("ねむい", "😴", None)}, sample("ねむい", "😴", "一つで")),
        (sample("ねむい", "😴", " "), sample("ねむい", "😴", None)),
    ],
)
def test_columns_by_their_common_names(row, messages, write_data):
    assert read(write_data([row])) == [messages]


def test_roles_and_parts_of_other_programs(write_data):
    messages = [
        {"role": "developer", "content": "一つで"},
        {"role": "Human", "content": [{"type": "text", "text": "ねむ"}, {"type": "text", "text": "い"}]},
        {"role": "model", "content": "😴", "weight": 1},
    ]
    sharegpt = [{"from": "human", "value": "ねむい"}, {"from": "gpt", "value": "😴"}]
    found = samples_of(write_data([{"messages": messages}])), samples_of(write_data([{"conversations": sharegpt}]))
    expected = [sample("ねむい", "😴", system)["messages"] for system in ("一つで", None)]
    assert [list(row.messages) for [row] in found] == expected


def test_chosen_columns_and_fields(write_data):
    path = write_data("id,Body,text,mood,form,n\n1,ねむい,x,😴,reply,2\n2,わあ,y,😆,post,3\n", "a.csv")
    rows, taken = read_dataset(str(path), text_column="BODY", label_column="mood")
    assert taken.startswith("body as the text, mood as the label; the system prompt is このツイート")
    assert taken.endswith("; kept beside each sample: form, n; not used: id, text")
    assert rows[0] == {**sample("ねむい", "😴"), "form": "reply", "n": "2"}
    assert samples_of(path, text_column="body", label_column="mood")[1].fields == {"form": "post", "n": "3"}
    for options in (
        {},
        {"text_column": "none", "label_column": "mood"},
        {"system_column": "none"},
        {"label_column": "text"},
    ):
        with pytest.raises(UserError, match=r"columns id, body, text, mood, form, n: .*--text-column.*the first line"):
            read(path, **options)


# ---- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        ('[{"messages": []},]', "a.json", ["line 1", "column"]),
        (b"\xef\xbb\xbf", "a.json", ["is empty"]),
        ("[]", "a.json", ["holds no samples"]),
        ("5", "a.json", ["holds no samples"]),
        (json.dumps({"data": SHORT * 500}, indent=1)[:-30], "a.json", ["is not JSON at line"]),
        ("[" + "1" * 10_000 + "]", "a.json", ["not JSON"]),
        ('{"messages": [\n' * 50_000, "a.json", ["not JSON that can be read"]),
        (json.dumps(SHORT).replace('"', "'"), "a.json", ["not JSON at line 1"]),
        (json.dumps(SHORT).encode("utf-32"), "a.json", ["not JSON"]),
        ({"train": SHORT, "test": SHORT}, "a.json", ["columns train, test"]),
        ("今日は最高,😀\n", "a.csv", ["holds no samples"]),
        ("\n\ntext,label\n最高,😀\nえっ,😭,その続き,😭\n", "a.csv", ["sample 2: line 5 has 4 columns"]),
        ('text\tlabel\n最高\t😀\n"マジか\t😭\nねむい\t😴\n', "a.tsv", ["line 3", "quotation mark"]),
        ("ツイート".encode("cp932"), "a.json", ["--encoding cp932"]),
        ("ツイートの本文、その一".encode("euc_jp"), "a.json", ["--encoding euc_jp"]),
        ("ツイート,text".encode("utf-16-le"), "a.csv", ["--encoding utf-16-le"]),
        ("ツイート,text".encode("utf-16-be"), "a.csv", ["--encoding utf-16-be"]),
        ("ツイート".encode() + b"\xff", "a.json", ["damaged at byte 12"]),
        (gzip.compress(b"[]" * 999, mtime=0)[:-9], "a.json.gz", ["is broken"]),
        (parquet_of(TABLE)[:-9], "a.parquet", ["cannot be read"]),
        (parquet_of(TABLE).replace("😀".encode(), b"\xff" * 4), "a.parquet", ["cannot be read"]),
        (parquet_of([{"day": pyarrow.scalar(2**62, pyarrow.timestamp("us"))}]), "a.parquet", ["out of range"]),
        (b"text,label,Label\nx,\xf0\x9f\x98\x80,y\n", "a.csv", ["two columns named label"]),
        (b"PK\x03\x04", "a.xlsx", ["CSV in UTF-8"]),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0", "a.xls", ["CSV in UTF-8"]),
    ],
)
def test_files_that_cannot_be_read(data, name, words, write_data):
    with pytest.raises(UserError) as error:
        samples_of(write_data(data, name))
    assert all(word in str(error.value) for word in [name, *words]) and len(str(error.value)) < 400


def test_a_file_that_is_cut_or_damaged_anywhere_is_refused(write_data):
    whole = json.dumps(SHORT, ensure_ascii=False).encode()
    cut = [whole[:end] for end in range(1, len(whole))]
    damaged = [whole[:at] + byte + whole[at + 1 :] for byte in (b"\0", b"\xff") for at in range(len(whole))]
    for data in cut + damaged:
        with pytest.raises(UserError, match=r"a\.json"):
            read(write_data(data, "a.json"))


def test_the_encoding_that_is_advised_works(write_data):
    path = write_data("text,label\n①㈱～の話,かなしい\n".encode("cp932"), "a.csv")
    assert read(path, encoding="cp932") == [sample("①㈱～の話", "かなしい", WORDS_SYSTEM_PROMPT)]
    for encoding, words in (("utf-8", "UTF-8: try --encoding cp932"), ("no", "no is not"), ("base64", "base64 is not")):
        with pytest.raises(UserError, match=words):
            read(path, encoding=encoding)
