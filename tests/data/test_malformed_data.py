"""Two thousand broken datasets: refused in a moment, by sample, without a traceback, with nothing written."""

import copy
import json
import random
import shutil
import time

import pytest
from conftest import SMALL_DATA, run_script, sample
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SCRIPT = "01_prepare_data.py"
EXAMPLES = 2000
SECONDS = 5.0  # no file may keep a person waiting for longer

junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.just(""),
    st.just(" \t　"),
    st.just("\ud800"),
    st.just("あ\x00い"),
    st.just("\x1b[2J\x1b]0;pwned\x07"),
    st.just("<end_of_turn>"),
    st.just("あ" * 100_000),
    st.just("😀😀"),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.recursive(st.integers(), lambda inner: st.lists(inner, min_size=1, max_size=2), max_leaves=20),
)
# What replaces a part of one sample; the parts are named by the way to them.
places = st.sampled_from(
    [(), ("messages",), *[("messages", n) for n in range(3)],
     *[("messages", n, key) for n in range(3) for key in ("role", "content")]]
)  # fmt: skip


def put(value, way, new):
    if not way:
        return new
    changed = copy.deepcopy(value)
    inner = changed
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = new
    return changed


@st.composite
def broken_samples(draw):
    """Rows, of which one or more are broken, and which (from 1)."""
    rows = [copy.deepcopy(row) for row in SMALL_DATA[:8]]
    broken = set()
    for number in draw(st.sets(st.integers(1, 8), min_size=1, max_size=3)):
        way, new = draw(places), draw(junk)
        if new == rows[number - 1] or (way and way[-1] == "content" and isinstance(new, str) and way[1] != 2):
            new = draw(st.sampled_from([None, 5, "", "\x00", "\ud800"]))  # other text would be a good sample
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
        broken.add(number)
    return rows, broken


@st.composite
def broken_bytes(draw):
    """A file that is no JSON, or not in UTF-8."""
    text = json.dumps(SMALL_DATA[:6], ensure_ascii=False, indent=draw(st.sampled_from([None, 1])))
    kind = draw(st.sampled_from(["cut", "comma", "encoding", "deep", "nan", "twice", "bytes", "quote", "wrapped"]))
    if kind == "cut":
        return text[: draw(st.integers(1, len(text) - 1))].encode()
    if kind == "comma":
        return (text[:-1].rstrip() + ",]").encode()
    if kind == "encoding":
        return text.encode(draw(st.sampled_from(["utf-16", "utf-32", "utf-16-le"])))
    if kind == "deep":
        return b"[" * draw(st.sampled_from([2000, 100_000])) + b"1"
    if kind == "nan":
        return text.replace('"😀"', draw(st.sampled_from(["NaN", "Infinity", "-Infinity", "1e999"])), 1).encode()
    if kind == "twice":
        return text.replace('"role": "user"', '"role": "user", "role": "system"', 1).encode()
    if kind == "quote":
        return text.replace('"', "'").encode()
    if kind == "wrapped":
        return json.dumps({"data": SMALL_DATA[:2]}).encode()
    damaged = bytearray(text.encode())
    damaged[draw(st.integers(0, len(damaged) - 1))] = draw(st.sampled_from([0x00, 0xFF, 0xC0]))
    return bytes(damaged)


@pytest.fixture
def prepare(tmp_path, monkeypatch, capsys):
    """Step 1 on a file of these bytes: its status, what it said, and whether it wrote anything."""
    from emojitune import figures, model

    # Neither counting tokens nor drawing is what is tested here, and each takes a second.
    monkeypatch.setattr(model, "token_lengths", lambda conversations: [10] * len(conversations))
    monkeypatch.setattr(figures, "draw_labels", lambda counts, title, path: path.write_bytes(b"png"))
    data, output = tmp_path / "data.json", tmp_path / "out"

    def run(content: bytes, name: str = "data.json"):
        path = data.with_name(name)
        path.write_bytes(content)
        start = time.monotonic()
        status = run_script(SCRIPT, "--data", path, "--output-dir", output)
        assert time.monotonic() - start < SECONDS
        said = capsys.readouterr()
        assert "\x1b" not in said.err + said.out and "\x00" not in said.err + said.out
        written = (output / "01_data").exists()
        if written:
            shutil.rmtree(output)
        return status, said.err, written

    return run


@pytest.fixture
def tried(record_property):
    record_property("tried", EXAMPLES // 2)


RELAXED = settings(
    max_examples=EXAMPLES // 2,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.large_base_example],
)


@RELAXED
@given(case=broken_samples())
def test_each_broken_sample_is_named(prepare, case, tried):
    rows, broken = case
    status, said, written = prepare(json.dumps(rows).encode())
    assert status == 2 and not written
    for number in broken:
        assert f"sample {number}: " in said
    assert said.splitlines()[-1].startswith("error: ")


@RELAXED
@given(content=broken_bytes())
def test_a_broken_file_is_refused_in_a_sentence(prepare, content, tried):
    status, said, written = prepare(content)
    assert status == 2 and not written, content[:80]
    assert said.splitlines()[-1].startswith("error: ")


def test_what_a_generator_would_not_find(prepare):
    good = json.dumps(SMALL_DATA, ensure_ascii=False)
    huge = [sample("あ" * 10_000_000, "😀"), sample("ふつうの文", "😭")]
    for content, word in (
        (b"", "is empty"),
        (b"[]", "no samples"),
        (b"\xef\xbb\xbf", "is empty"),
        (json.dumps(huge, ensure_ascii=False).encode(), "sample 1: "),
        (good.encode("cp932", errors="ignore"), "iconv -f SHIFT_JIS"),
        (good.encode("euc_jp", errors="ignore"), "iconv -f"),
    ):
        status, said, written = prepare(content)
        assert status == 2 and word in said and not written
    assert prepare("本文,絵文字\nあ,😀\n".encode(), "data.csv")[0] == 2


def test_what_is_unusual_but_right_passes(prepare):
    good = json.dumps(SMALL_DATA, ensure_ascii=False, indent=1)
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in SMALL_DATA)
    for content in (
        b"\xef\xbb\xbf" + good.encode(),
        good.replace("\n", "\r\n").encode(),
        good.replace("\n", "\r").encode(),
        lines.replace("\n", "\r\n", 3).encode(),
        json.dumps(SMALL_DATA).encode(),
        json.dumps(SMALL_DATA[:1]).encode(),  # one sample, one label
        json.dumps([SMALL_DATA[0], SMALL_DATA[5]]).encode(),  # one sample a label
        json.dumps(random.Random(1).sample(SMALL_DATA, 5)).encode(),
    ):
        status, said, written = prepare(content)
        assert (status, written) == (0, True), said
