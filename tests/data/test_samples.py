"""Reading, validating, selecting and comparing conversations."""

import json
import random

import pytest
from conftest import SMALL_DATA, conversation, sample

from emojitune.artifacts import UserError
from emojitune.dataset import (
    at_most,
    balanced,
    japanese_share,
    load_samples,
    near_duplicates,
    normalised_text,
    printable,
    qualified,
    read_rows,
    trigrams,
    validate,
    with_group_labels,
    with_labels,
    with_turns,
)

SHORT = [sample("ある日の出来事", "😀"), sample("ぜんぜん違う話", "😭")]


def check(rows, max_length=512):
    return validate(rows, max_length, lambda conversations: [len(str(messages)) // 10 for messages in conversations])


def problems(rows, **settings):
    return [str(problem) for problem in check(rows, **settings)[1]]


# ---- reading -------------------------------------------------------------------------------------------------------


def test_json_array_jsonl_and_bom(write_data):
    array = read_rows(write_data(SHORT))
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in SHORT)
    assert array == read_rows(write_data(lines, "a.jsonl")) == SHORT
    assert read_rows(write_data(b"\xef\xbb\xbf" + json.dumps(SHORT).encode(), "bom.json")) == SHORT
    assert read_rows(write_data(lines.replace("\n", "\r\n"), "crlf.jsonl")) == SHORT


def test_csv_and_tsv(write_data):
    table = read_rows(write_data('text,label\n"ある日、の出来事",😀\nぜんぜん違う話,😭\n', "a.csv"))
    assert [row["messages"][1]["content"] for row in table] == ["ある日、の出来事", "ぜんぜん違う話"]
    assert read_rows(write_data("label\ttext\n😀\tある日の出来事\n😭\tぜんぜん違う話\n", "a.tsv")) == SHORT


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        ('[{"messages": []},]', "a.json", ["line 1", "column"]),
        ("", "a.json", ["is empty"]),
        ("[" * 100_000, "a.json", ["nested too deeply"]),
        ("[" + "1" * 10_000 + "]", "a.json", ["not JSON"]),
        ("text,emoji\na,😀\n", "a.csv", ["columns text and label"]),
        ("ツイート".encode("cp932"), "a.json", ["SHIFT_JIS", "iconv -f SHIFT_JIS -t UTF-8"]),
        ("ツイート".encode("utf-16"), "a.json", ["UTF-16", "iconv"]),
        (b"\xff\x00\xfa\x81", "a.json", ["not UTF-8"]),
    ],
)
def test_files_that_cannot_be_read(data, name, words, write_data):
    with pytest.raises(UserError) as error:
        read_rows(write_data(data, name))
    for word in [name, *words]:
        assert word in str(error.value)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UserError, match="--data"):
            read_rows(path)


# ---- validating ----------------------------------------------------------------------------------------------------


def broken(**changes):
    row = sample("ある日の出来事", "😀")
    row["messages"][1].update(changes)
    return row


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (None, "must be an object"),
        ({"messages": "x"}, "needs a list of messages"),
        ({"messages": []}, "needs a list of messages"),
        ({"messages": [1]}, "each message must be an object"),
        (broken(role="human"), "a role must be"),
        (broken(role=["user"]), "a role must be"),
        (broken(content=None), "content of the user must be text"),
        (broken(content="　 \n"), "text of the user is empty"),
        (broken(content="a\x1b[31m"), "control character"),
        (broken(content="a\x00"), "control character"),
        (broken(content="\ud83d"), "half a surrogate pair"),
        (broken(content="あ<end_of_turn>い"), "only the chat template"),
        (broken(content="あ" * 60_000), "60,000 characters"),
        (broken(content="あ" * 6_000), "above --max-length"),
        (sample("ある日", "😀😀"), "exactly one emoji"),
        (sample("ある日", "うれしい"), "exactly one emoji"),
        ({"messages": SHORT[0]["messages"][:2]}, "user and assistant in turns"),
        ({"messages": SHORT[0]["messages"][::-1]}, "user and assistant in turns"),
        ({"messages": SHORT[0]["messages"][:1] * 2}, "user and assistant in turns"),
        ({"messages": SHORT[0]["messages"][:1]}, "user and assistant in turns"),
    ],
)
def test_each_problem_is_named_with_its_sample(row, what):
    found = problems([SHORT[1], row])
    assert len(found) == 1
    assert found[0].startswith("sample 2: ") and what in found[0]


def test_all_problems_are_listed_not_only_the_first():
    rows = [broken(content=""), SHORT[0], sample("ある日", "x"), {"messages": [{"role": "?"}, {"role": "user"}]}]
    assert [text.split(":")[0] for text in problems(rows)] == ["sample 1", "sample 3", "sample 4", "sample 4"]


def test_repeated_and_contradictory_samples():
    rows = [SHORT[0], sample("ある日の 出来事", "😀"), sample("ある日の出来事", "😀"), sample("ｱる日の出来事", "😭")]
    found = problems([*rows, sample("ある日の出来事", "😤")])
    assert any("sample 3: the same as sample 1" in text for text in found)
    assert any("sample 5: labelled 😤, but 😀 in sample 1" in text for text in found)


def test_duplicate_keys_are_a_problem_not_a_choice(write_data):
    text = json.dumps(SHORT[0], ensure_ascii=False)
    rows = read_rows(write_data(f'[{text[:-1]}, "messages": []}}]'))
    assert "names a key twice" in problems(rows)[0]


def test_a_bad_line_of_jsonl_is_named(write_data):
    line = json.dumps(SHORT[0], ensure_ascii=False)
    assert "sample 2: this line is not JSON" in problems(read_rows(write_data(f"{line}\n{{oops\n", "a.jsonl")))[0]


def test_not_an_array():
    assert "array of samples" in problems({"messages": []})[0]


def test_labels_and_line_ends_are_normalised():
    [found], none = check([sample(" ある\r\n日 ", " ☹ ")])
    assert not none
    assert (found.texts, found.label) == (["ある\n日"], "☹️")
    assert qualified("😀") == "😀"


def test_a_hostile_text_is_harmless_on_screen():
    assert printable("\x1b]0;pwn\x07あ\n\ud800い") == "�]0;pwn�あ �い"
    assert printable("あ" * 50, 10) == "あ" * 10 + "…"


# ---- selecting -----------------------------------------------------------------------------------------------------


@pytest.fixture
def samples():
    return load_samples(SMALL_DATA)


def counts(samples):
    result = {}
    for found in samples:
        result[found.label] = result.get(found.label, 0) + 1
    return result


def test_labels_and_turns(samples):
    assert set(counts(with_labels(samples, ["😀", "😭"]))) == {"😀", "😭"}
    assert {s.turns for s in with_turns(samples, "multi")} == {2, 3}
    assert {s.turns for s in with_turns(samples, "single")} == {1}
    assert with_turns(samples, "all") == samples


def test_groups_map_every_turn():
    [found] = with_group_labels(load_samples([conversation([("夜中の物音", "🤯"), ("もう寝ます", "😴")])]))
    assert found.labels == ["😨", "😩"]
    with pytest.raises(UserError, match="🐱"):
        with_group_labels(load_samples([sample("ねこ", "🐱")]))


def test_per_label_takes_the_small_set_first():
    rows = [{**sample(f"文その{i}", "😀"), "small": i >= 3} for i in range(6)]
    assert [s.number for s in balanced(load_samples(rows), per_label=3)] == [4, 5, 6]


def test_weights_shift_the_balance_without_repeating(samples):
    found = counts(balanced(samples, weights={"😀": 2.0}))
    assert found["😀"] == 2 * found["😭"] == 2 * found["😤"]
    assert counts(balanced(samples, 2, {"😤": 0.5})) == {"😀": 2, "😭": 2, "😤": 1}


def test_at_most_spreads_over_the_labels(samples):
    assert set(counts(at_most(samples, 3)).values()) == {1}
    assert len(at_most(samples, 5)) == 5
    assert at_most(samples, 1000) == samples


# ---- comparing -----------------------------------------------------------------------------------------------------


def test_near_duplicates_agree_with_comparing_every_pair():
    generator = random.Random(5)
    words = ["電車", "遅れ", "会議", "雨", "ラーメン", "推し", "最高", "つらい", "眠い", "朝", "が", "の", "で"]
    texts = ["".join(generator.choices(words, k=generator.randint(3, 9))) for _ in range(300)]
    texts += [text + generator.choice(["！", "よ", "ね"]) for text in texts[:40]] + ["あ", "あ", "", "い"]
    sets = [trigrams(text) for text in texts]
    expected = set()
    for j in range(len(texts)):
        for i in range(j):
            similarity = len(sets[i] & sets[j]) / len(sets[i] | sets[j])
            if similarity > 0.6:
                expected.add((i, j, round(similarity, 9)))
    assert {(i, j, round(s, 9)) for i, j, s in near_duplicates(texts)} == expected
    assert len(expected) > 30


def test_normalised_text_and_japanese_share():
    assert normalised_text(" Ｈｅｌｌｏ　 世界\n") == "Hello 世界"
    assert japanese_share(["今日は good"]) == pytest.approx(3 / 7)
