"""Samples: what they hold, and how some of them are chosen."""

from collections import Counter

import pytest
from conftest import SMALL_DATA, conversation, sample

from emojitune.artifacts import UserError
from emojitune.data.samples import (
    balance,
    count_labels,
    draw,
    filter_by_turns,
    load_samples,
    map_to_groups,
    sanitize,
    subsample,
)


@pytest.fixture
def samples():
    return load_samples(SMALL_DATA)


def counts(samples):
    return Counter(sample.label for sample in samples)


def test_a_sample_is_written_as_it_was_read():
    row = {**sample("うれしい日", "😀"), "form": "reply", "small": True}
    [found] = load_samples([{**row, "id": "7", "score": 3, "text": "x"}])
    assert found.fields == {"form": "reply"} and found.small and found.as_json() == row


def test_turns_and_the_order_of_labels(samples):
    assert {s.turns for s in filter_by_turns(samples, "multi")} == {2, 3}
    assert {s.turns for s in filter_by_turns(samples, "single")} == {1}
    assert filter_by_turns(samples, "all") == samples
    assert list(count_labels(["b", "😭", "a", "😀", "a"]).items()) == [("😀", 1), ("😭", 1), ("a", 2), ("b", 1)]


def test_groups_map_every_label_and_a_reply_of_weight_zero_is_none():
    row = conversation([("夜中の物音", "🤯"), ("もう寝ます", "😴"), ("おはよう", "😡")])
    row["messages"][6]["weight"] = 0
    [found] = map_to_groups(load_samples([row]))
    assert (found.labels, found.label, found.turns) == (["😨", "😩"], "😩", 3)
    assert found.messages[6] == {"role": "assistant", "content": "😡", "weight": 0}
    with pytest.raises(UserError, match="🐱"):
        map_to_groups(load_samples([sample("ねこ", "🐱")]))


def test_the_small_set_comes_first():
    rows = load_samples([{**sample(f"文その{i}", "😀"), "small": i >= 3} for i in range(6)])
    assert [s.number for s in balance(rows, per_label=3)] == [4, 5, 6]
    assert [s.number for s in subsample(rows, 2)] == [4, 5]


def test_weights_shift_the_balance_without_repeating(samples):
    found = counts(balance(samples, weights={"😀": 2.0}))
    assert found["😀"] == 2 * found["😭"] == 2 * found["😤"]
    assert counts(balance(samples, 2, {"😤": 0.5})) == {"😀": 2, "😭": 2, "😤": 1}


def test_draw_is_the_same_each_time_in_order_and_from_everywhere(samples):
    rows = load_samples(SMALL_DATA * 5)
    found = draw(rows, 10)
    assert found == draw(rows, 10) and len(found) == 10 and draw(samples, 1000) == samples
    assert [s.number for s in found] == sorted(s.number for s in found) and found[-1].number > len(SMALL_DATA)


def test_subsample_spreads_over_the_labels(samples):
    assert set(counts(subsample(samples, 3)).values()) == {1}
    assert len(subsample(samples, 5)) == 5
    assert subsample(samples, 1000) == samples


def test_a_hostile_text_is_harmless_on_screen():
    assert sanitize("\x1b]0;pwn\x07あ\n\ud800い") == "�]0;pwn�あ �い"
    assert sanitize("あ" * 50, 10) == "あ" * 10 + "…"
