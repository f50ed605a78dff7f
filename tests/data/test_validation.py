"""Checking samples: every problem is named, and a person decides what is dropped."""

import json

import pytest
from conftest import SMALL_DATA, conversation, sample

from emojitune.artifacts import UserError
from emojitune.data.reading import read_dataset
from emojitune.data.validation import Problem, drop, validate

SHORT = [sample("ある日の出来事", "😀"), sample("ぜんぜん違う話", "😭")]


def check(rows):
    return validate(rows, 512, lambda conversations: [len(str(messages)) // 10 for messages in conversations])


def problems(rows):
    return [str(problem) for problem in check(rows)[1]]


def broken(**changes):
    row = sample("ある日の出来事", "😀")
    row["messages"][1].update(changes)
    return row


def weighted(*weights):
    row = conversation([(f"{i}番目の文章", "😀") for i in range(len(weights))])
    for message, weight in zip(row["messages"][2::2], weights, strict=True):
        message["weight"] = weight
    return row


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (None, "must be an object"),
        (Problem(0, "line 3 is not JSON", "{oops"), "line 3 is not JSON: {oops"),
        ({"messages": []}, "a list of messages"),
        ({"messages": [1]}, "each message must be an object"),
        (broken(role="narrator"), "a role must be"),
        (broken(content=[{"image": "x"}]), "content of the user must be text"),
        (broken(content="　 \n"), "text of the user is empty"),
        (broken(content="a\x1b[31m"), "control character"),
        (broken(content="\ud83d"), "half a surrogate pair"),
        (broken(content="あ<end_of_turn>い"), "only the chat template"),
        (broken(content="あ" * 60_000), "60,000 characters"),
        (broken(content="あ" * 6_000), "above --max-length"),
        (sample("ある日", "😀😀"), "exactly one emoji"),
        (sample("ある日", "うれしい"), "exactly one emoji: うれしい"),
        (weighted(0, 0), "no reply carries loss"),
        (weighted(1, 0.5), "a weight must be 0 or 1: 0.5"),
        ({"messages": SHORT[0]["messages"][:1]}, "user and assistant in turns"),
    ],
)
def test_each_problem_is_named_with_its_sample(row, what):
    found = problems([SHORT[1], row])
    assert len(found) == 1
    assert found[0].startswith("sample 2: ") and what in found[0]


def test_all_problems_are_listed_not_only_the_first():
    rows = [broken(content=""), SHORT[0], sample("ある日", "x"), {"messages": [{"role": "?"}, {"role": "user"}]}]
    assert [problem.number for problem in check(rows)[1]] == [1, 3, 4, 4]


BLANK = [None, "", " \t　"]
HOSTILE = ["\ud800", "あ\x00い", "\x1b[2J\x1b]0;pwned\x07", "<end_of_turn>", "あ" * 100_000]
JUNK = [*BLANK, *HOSTILE, True, 0, 10**400, 0.5, float("nan"), float("inf"), {}, {"a": 1}, []]
JUNK += [[1, [[2]]], [{"text": None}]]


def rows_with(junk):
    """The sample with `junk` in every place, one at a time; an empty system prompt is none, so it is left out."""
    yield from (junk, {"messages": junk})
    messages = SHORT[0]["messages"]
    for index, message in enumerate(messages):
        keys = ["role"] if message["role"] == "system" and junk in BLANK else ["role", "content"]
        for changed in (junk, *({**message, key: junk} for key in keys)):
            yield {"messages": [*messages[:index], changed, *messages[index + 1 :]]}


def test_every_malformed_sample_is_named_and_no_other(write_data):
    system, user, assistant = SHORT[0]["messages"]
    orders = [[assistant, user, system], [system, user], [system, system], [system, user, assistant, user]]
    broken = [row for junk in JUNK for row in rows_with(junk)] + [{"messages": messages} for messages in orders]
    rows, _ = read_dataset(str(write_data(json.dumps([*broken, *SMALL_DATA]))))
    samples, found = check(rows)
    assert {problem.number for problem in found} == set(range(1, len(broken) + 1))
    assert not {"\x1b", "\x00"} & set("".join(map(str, found)))
    assert [sample.as_json() for sample in samples] == SMALL_DATA


def test_labels_line_ends_and_fields_are_normalised():
    [found], none = check([{**sample(" ある\r\n日 ", " ☹ "), "form\x1b": "re\nply", "id": "1"}])
    assert not none
    assert (found.texts, found.label, found.fields) == (["ある\n日"], "☹️", {"form�": "re ply"})


def test_labels_may_be_words_and_of_mixed_labels_the_odd_ones_are_named():
    def words(*labels):
        return [sample(f"{i}番目の文章です", label) for i, label in enumerate(labels)]

    assert not problems(words("positive", "怒り", "spam", "怒り", "1"))
    rows = words("嬉しい", "😀", *["悲しい"] * 5, "とても" * 6, "二\n行")
    assert [text.split(": ", 1)[1] for text in problems(rows)] == [
        "the label is an emoji, where most labels are words: 😀",
        f"a label of words is one line of at most 16 characters: {'とても' * 6}",
        "a label of words is one line of at most 16 characters: 二 行",
    ]
    assert problems(words(*["😀"] * 5, "悲しい")) == ["sample 6: the label must be exactly one emoji: 悲しい"]


# ---- dropping ------------------------------------------------------------------------------------------------------

REPEATED = [
    SHORT[0],
    sample("ある日の 出来事", "😀"),
    sample("ある日の出来事", "😀"),
    sample("ｱる日の出来事", "😭"),
    sample("ある日の出来事", "😤"),
    sample("ある日の出来事", "😤"),
    sample("ある日の別の出来事", "？"),
]


def test_repeated_and_contradictory_samples():
    assert [(problem.number, problem.kind) for problem in check(REPEATED)[1]] == [
        (3, "repeat"), (5, "conflict"), (6, "repeat"), (7, "invalid"),
    ]  # fmt: skip
    said = problems(REPEATED)
    assert "sample 3: the same as sample 1" in said[0] and "sample 5: labelled 😤, but 😀 in sample 1" in said[1]


def test_a_refused_sample_and_another_system_prompt_make_no_repeat():
    assert [
        p.number for p in check([sample("虹が見えた", "うれしい"), sample("虹が見えた", "😀"), *SMALL_DATA])[1]
    ] == [1]
    rows = [conversation([("虹が見えた", "😀")], system=prompt) for prompt in ("分類して", "感情は？")]
    assert check(rows)[1] == []


def test_what_is_dropped_is_what_the_flags_say():
    def kept(rows, drop_duplicates, drop_invalid):
        return [s.number for s in drop("a.json", *check(rows), drop_duplicates, drop_invalid)]

    for drop_duplicates, refused in ((False, "4 problems in 4 samples"), (True, "1 problems in 1 samples")):
        with pytest.raises(UserError, match=refused):
            kept(REPEATED, drop_duplicates, False)
    assert kept(REPEATED, False, True) == [1, 2, 4]
    assert kept(REPEATED, True, True) == kept(REPEATED[:6], True, False) == [1, 2, 4, 5]
    assert kept(SMALL_DATA[:3], False, False) == [1, 2, 3]
