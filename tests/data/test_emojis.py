"""Emojis as whole grapheme clusters in one written form, and the table of emotion groups."""

import pytest

from emojitune.data import emojis
from emojitune.data.emojis import LABELS, are_emojis, emotion_group, fully_qualified, is_single_emoji


def test_twenty_five_labels_each_in_a_group_whose_emoji_is_one_of_its_own():
    assert len(set(LABELS)) == 25 and len(emojis.GROUP_EMOJI) == 9
    assert {emotion_group(label) for label in LABELS} == set(emojis.GROUP_EMOJI)
    assert all(emotion_group(label) == group for group, label in emojis.GROUP_EMOJI.items())


@pytest.mark.parametrize("text", [*LABELS, "👨‍👩‍👧", "🇯🇵", "👍🏽", "❤️", "1️⃣", "⭐", "🫩", "🫪"])
def test_one_emoji(text):
    assert is_single_emoji(text) and fully_qualified(text) == text
    assert emojis.emojis_in(f"あ{text}い") == [text]


@pytest.mark.parametrize("text", ["", "😀😀", "😀!", "あ", ":)", "1", "\ufe0f", "😀 ", ":sob:"])
def test_not_one_emoji(text):
    assert not is_single_emoji(text)


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("\u2639", "\u2639\ufe0f"),
        ("\u2639\ufe0e", "\u2639\ufe0f"),
        ("\u2615\ufe0f", "\u2615"),
        ("1\u20e3", "1\ufe0f\u20e3"),
        ("\u2764\u200d\U0001f525", "\u2764\ufe0f\u200d\U0001f525"),
        ("\U0001f441\u200d\U0001f5e8\ufe0f", "\U0001f441\ufe0f\u200d\U0001f5e8\ufe0f"),
        (":sob:", "😭"),
        (":red_heart:", "❤️"),
        (":no such name:", ":no such name:"),
        ("うれしい", "うれしい"),
    ],
)
def test_an_emoji_has_one_form_however_it_was_written(written, form):
    assert fully_qualified(written) == form
    assert is_single_emoji(written) == (not written.isascii() and written != "うれしい")


def test_a_few_emojis_among_words_do_not_make_a_label_set_of_emojis():
    assert are_emojis(["😀", "☕️", "😭"]) and are_emojis(["😀"] * 3 + ["x"] * 7)
    assert not are_emojis(["positive"] * 9 + ["😀"]) and not are_emojis(["1", "2"]) and not are_emojis([])


def test_emojis_outside_the_labels_have_groups_too():
    assert emotion_group("😡") == "怒り" and emotion_group("😮‍💨") == "疲れ" and emotion_group("❤") == "愛情"
    assert emotion_group("🐱") is None
