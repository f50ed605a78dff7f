"""Two thousand broken datasets: refused in a moment, by sample, and never with an error of Python's."""

import copy
import json
import random
import time

import pytest
from conftest import SMALL_DATA, sample
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emojitune.artifacts import UserError
from emojitune.data.reading import ReadingOptions, read_dataset
from emojitune.data.validation import drop, format_problems, validate

SECONDS = 5.0  # no file may keep a person waiting for longer

junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.sampled_from(
        ["", " \t　", "\ud800", "あ\x00い", "\x1b[2J\x1b]0;pwned\x07", "<end_of_turn>", "あ" * 100_000, "😀😀"]
    ),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.recursive(st.integers(), lambda inner: st.lists(inner, min_size=1, max_size=2), max_leaves=20),
)
# What replaces a part of one sample; the parts are named by the way to them.
ways = st.sampled_from(
    [(), ("messages",), *[("messages", n) for n in range(3)],
     *[("messages", n, key) for n in range(3) for key in ("role", "content")]]
)  # fmt: skip


def put(value, way, new):
    if not way:
        return new
    changed = inner = copy.deepcopy(value)
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = new
    return changed


@st.composite
def malformed_rows(draw):
    """Rows, of which one or more are broken, and which (from 1)."""
    rows = [copy.deepcopy(row) for row in SMALL_DATA[:8]]
    broken = draw(st.sets(st.integers(1, 8), min_size=1, max_size=3))
    for number in broken:
        way, new = draw(ways), draw(junk)
        if new == rows[number - 1] or (way and way[-1] == "content" and isinstance(new, str) and way[1] != 2):
            new = draw(st.sampled_from([5, "\x00", "\ud800"]))  # other text would be a good sample
        if way == ("messages", 0, "content") and (new is None or not str(new).strip()):
            new = 5  # an empty system prompt is none
        kind = draw(st.sampled_from(["put", "put", "put", "roles", "drop", "extra"]))
        row = rows[number - 1]
        if kind == "put":
            row = put(row, way, new)
        elif kind == "roles":
            row["messages"] = draw(
                st.sampled_from([row["messages"][::-1], row["messages"][:2], row["messages"][:1] * 2])
            )
        elif kind == "drop":
            del row["messages"][1]["content"]
        else:
            row["messages"].append(draw(st.sampled_from([None, {"role": "user", "content": "つづく"}, "😀"])))
        rows[number - 1] = row
    return rows, broken


@st.composite
def malformed_bytes(draw):
    """A file that is no JSON, or in no encoding."""
    text = json.dumps(SMALL_DATA[:6], ensure_ascii=False, indent=draw(st.sampled_from([None, 1])))
    kind = draw(st.sampled_from(["cut", "comma", "encoding", "deep", "nan", "bytes", "quote", "lists"]))
    damaged = bytearray(text.encode())
    damaged[draw(st.integers(0, len(damaged) - 1))] = draw(st.sampled_from([0x00, 0xFF, 0xC0]))
    return {
        "cut": text[: draw(st.integers(1, len(text) - 1))].encode(),
        "comma": (text[:-1].rstrip() + ",]").encode(),
        "encoding": text.encode(draw(st.sampled_from(["utf-32", "utf-16-le", "utf-16-be"]))),
        "deep": b"[" * draw(st.sampled_from([2000, 100_000])) + b"1",
        "nan": text.replace('"😀"', draw(st.sampled_from(["NaN", "Infinity", "-Infinity", "1e999"])), 1).encode(),
        "bytes": bytes(damaged),
        "quote": text.replace('"', "'").encode(),
        "lists": json.dumps({"train": SMALL_DATA[:2], "test": SMALL_DATA[:2]}).encode(),
    }[kind]


@pytest.fixture
def refusal(tmp_path):
    """What is said of a file of these bytes, and all of its problems; None where nothing is wrong."""

    def check(content: bytes, name: str = "data.json"):
        path = tmp_path / name
        path.write_bytes(content)
        start = time.monotonic()
        problems = []
        try:
            rows, _ = read_dataset(str(path), ReadingOptions())
            samples, problems = validate(rows, 512, lambda conversations: [10] * len(conversations))
            drop(name, samples, problems, drop_duplicates=False, drop_invalid=False)
            said = None
            json.dumps([sample.as_json() for sample in samples], ensure_ascii=False).encode()
        except UserError as error:
            said = str(error)
        assert time.monotonic() - start < SECONDS
        assert not {"\x1b", "\x00"} & set(str(said))
        return said, problems

    return check


RELAXED = settings(
    max_examples=1000,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.large_base_example],
)


@RELAXED
@given(case=malformed_rows())
def test_each_malformed_sample_is_named(refusal, case):
    rows, broken = case
    said, problems = refusal(json.dumps(rows).encode())
    assert {problem.number for problem in problems} == broken
    assert format_problems(problems) in said


@RELAXED
@given(content=malformed_bytes())
def test_a_malformed_file_is_refused_in_a_sentence(refusal, content):
    assert refusal(content)[0], content[:80]


def test_what_a_generator_would_not_find(refusal):
    huge = [sample("あ" * 10_000_000, "😀"), sample("ふつうの文", "😭")]
    assert "sample 1: " in refusal(json.dumps(huge, ensure_ascii=False).encode())[0]
    assert "is empty" in refusal(b"\xef\xbb\xbf")[0]
    assert "line 1 of" not in refusal(b'{"messages": [\n' * 50_000)[0]


def test_what_is_unusual_but_right_passes(refusal):
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in SMALL_DATA)
    for content in (
        lines.replace("\n", "\r\n", 3).encode(),
        json.dumps(SMALL_DATA[:1]).encode(),  # one sample, one label
        json.dumps([SMALL_DATA[0], SMALL_DATA[5]]).encode(),  # one sample per label
        json.dumps([{**SMALL_DATA[0], "\ud800": "\ud800"}]).encode(),
        json.dumps(random.Random(1).sample(SMALL_DATA, 5)).encode(),
    ):
        assert refusal(content) == (None, [])
