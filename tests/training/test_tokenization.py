"""Exactly which tokens are supervised."""

import re

import pytest
from conftest import SMALL_DATA, conversation, sample

from emojitune.artifacts import UserError
from emojitune.data.samples import load_samples
from emojitune.training.tokenization import IGNORE_INDEX, highlight_labels, tokenize


def supervised(row, tokenizer):
    return tokenizer.decode([label for label in row["labels"] if label != IGNORE_INDEX])


def test_exactly_the_emojis_and_the_ends_of_their_turns_are_supervised(tiny_tokenizer):
    rows = tokenize(load_samples(SMALL_DATA), tiny_tokenizer, 512, "training")
    for row, source in zip(rows, SMALL_DATA, strict=True):
        labels = [message["content"] for message in source["messages"] if message["role"] == "assistant"]
        assert supervised(row, tiny_tokenizer) == "".join(f"{label}<end_of_turn>" for label in labels)
        assert row["input_ids"].count(tiny_tokenizer.bos_token_id) == 1
    assert "【😭<end_of_turn>】⏎" in highlight_labels(rows[5], tiny_tokenizer)


def test_a_turn_of_weight_zero_carries_no_loss(tiny_tokenizer):
    row = conversation([("雨だ", "😩"), ("やんだ", "😀"), ("虹", "🤩")])
    row["messages"][4]["weight"] = 0
    [tokenized] = tokenize(load_samples([row]), tiny_tokenizer, 512, "training")
    assert supervised(tokenized, tiny_tokenizer) == "😩<end_of_turn>🤩<end_of_turn>"


def test_a_line_break_that_a_template_marks_with_the_turn_is_not_learnt(tiny_tokenizer, monkeypatch):
    mark = "{%- endgeneration -%}"
    before, after = tiny_tokenizer.chat_template.split(mark)
    monkeypatch.setattr(tiny_tokenizer, "chat_template", before + r"{{ '\n' }}" + mark + after)
    [row] = tokenize(load_samples([sample("虹", "😀")]), tiny_tokenizer, 512, "training")
    assert supervised(row, tiny_tokenizer) == "😀<end_of_turn>"


def test_a_sample_above_max_length_is_refused_and_not_dropped(tiny_tokenizer):
    """TRL used to cut it, and to drop it in silence when its reply was cut off."""
    rows = load_samples([sample("短い", "😀"), sample("長い" * 100, "😀")])
    with pytest.raises(UserError, match=r"sample 2 of the validation split has \d+ tokens, above --max-length 128"):
        tokenize(rows, tiny_tokenizer, 128, "validation")


@pytest.mark.parametrize(
    ("pattern", "replacement", "words"),
    [
        (r"{%- (end)?generation -%}", "", "no token that carries"),
        (r" \+ '<end_of_turn>' -}}{%- endgen", " -}}{%- endgen", "does not learn to stop"),
        (r"^", "{{ bos_token }}", "two <bos>"),
    ],
)
def test_a_template_that_trains_the_wrong_tokens_is_refused(pattern, replacement, words, tiny_tokenizer, monkeypatch):
    template = re.sub(pattern, replacement, tiny_tokenizer.chat_template)
    monkeypatch.setattr(tiny_tokenizer, "chat_template", template)
    with pytest.raises(UserError, match=words):
        tokenize(load_samples([sample("雨だ", "😩")]), tiny_tokenizer, 512, "training")
