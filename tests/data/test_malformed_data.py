"""Hundreds of broken datasets: refused in a moment, by sample, and never with an error of Python's."""

import json
import time

import pytest
from conftest import SMALL_DATA
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emojitune.artifacts import UserError
from emojitune.data.reading import read_dataset
from emojitune.data.validation import drop, format_problems, validate

SECONDS = 5.0  # no file may keep a person waiting for longer

not_text = (
    st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
    | st.recursive(st.integers(), lambda inner: st.lists(inner, max_size=3), max_leaves=20)
)
blank = st.none() | st.sampled_from(["", " \t　"])
bad_text = st.sampled_from(["\ud800", "あ\x00い", "\x1b[2J\x1b]0;pwned\x07", "<end_of_turn>", "あ" * 100_000])
junk = not_text | blank | bad_text | st.text(max_size=20) | st.just("😀😀")


@st.composite
def broken_row(draw, row):
    messages = [message.copy() for message in row["messages"]]
    system, user, assistant = messages
    any_message = draw(st.sampled_from(messages))
    match draw(st.sampled_from(["row", "messages", "message", "role", "content", "blank", "label", "order"])):
        case "row":
            return draw(junk)
        case "messages":
            return {"messages": draw(junk)}
        case "message":
            messages[draw(st.integers(0, 2))] = draw(junk)
        case "role":
            any_message["role"] = draw(junk)
        case "content":
            any_message["content"] = draw(not_text | bad_text)
        case "blank":  # an empty system prompt is none
            draw(st.sampled_from([user, assistant]))["content"] = draw(blank)
        case "label":
            assistant["content"] = draw(junk)
        case "order":
            more = st.sampled_from([None, "😀", user, system]).map(lambda message: [*messages, message])
            messages = draw(st.sampled_from([messages[::-1], messages[:2], [system, system]]) | more)
    return {"messages": messages}


@st.composite
def malformed_bytes(draw):
    """A file that is no JSON, or in no encoding."""
    text = json.dumps(SMALL_DATA[:6], ensure_ascii=False, indent=draw(st.sampled_from([None, 1])))
    cut, damaged = draw(st.integers(1, len(text) - 1)), bytearray(text.encode())
    damaged[draw(st.integers(0, len(damaged) - 1))] = draw(st.sampled_from([0x00, 0xFF, 0xC0]))
    broken = [
        bytes(damaged),
        *(text.encode(encoding) for encoding in ("utf-32", "utf-16-le", "utf-16-be")),
        *(text.replace('"😀"', number, 1) for number in ("NaN", "Infinity", "-Infinity", "1e999")),
        *(text[:cut], text[:-1].rstrip() + ",]", text.replace('"', "'"), "[" * 2000 + "1", "[" * 100_000 + "1"),
        json.dumps({"train": SMALL_DATA[:2], "test": SMALL_DATA[:2]}),
    ]
    content = draw(st.sampled_from(broken))
    return content if isinstance(content, bytes) else content.encode()


@pytest.fixture
def refusal(tmp_path):
    """What is said of a file of these bytes, and all of its problems; None where nothing is wrong."""

    def check(content: bytes):
        path = tmp_path / "data.json"
        path.write_bytes(content)
        start, said, problems = time.monotonic(), None, []
        try:
            rows, _ = read_dataset(str(path))
            samples, problems = validate(rows, 512, lambda conversations: [10] * len(conversations))
            drop(path.name, samples, problems, drop_duplicates=False, drop_invalid=False)
            json.dumps([sample.as_json() for sample in samples], ensure_ascii=False).encode()
        except UserError as error:
            said = str(error)
        assert time.monotonic() - start < SECONDS
        assert not {"\x1b", "\x00"} & set(str(said))
        return said, problems

    return check


RELAXED = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.large_base_example],
)


@RELAXED
@given(data=st.data(), broken=st.sets(st.integers(1, 8), min_size=1, max_size=3))
def test_each_malformed_sample_is_named(refusal, data, broken):
    rows = [data.draw(broken_row(row)) if n in broken else row for n, row in enumerate(SMALL_DATA[:8], 1)]
    said, problems = refusal(json.dumps(rows).encode())
    assert {problem.number for problem in problems} == broken
    assert format_problems(problems) in said


@RELAXED
@given(content=malformed_bytes())
def test_a_malformed_file_is_refused_in_a_sentence(refusal, content):
    assert refusal(content)[0], content[:80]


def test_what_a_generator_would_not_find(refusal):
    assert "is empty" in refusal(b"\xef\xbb\xbf")[0]
    assert "line 1 of" not in refusal(b'{"messages": [\n' * 50_000)[0]
