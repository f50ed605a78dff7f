"""Emojis as whole grapheme clusters, and the table of emotion groups."""

import pytest

from emojitune.emotions import EMOTIONS, GROUP_EMOJI, LABELS, emojis_in, emotion_group, group_label, is_single_emoji


def test_twenty_five_labels_each_in_a_group_whose_emoji_is_one_of_its_own():
    assert len(set(LABELS)) == 25
    assert 5 <= len(GROUP_EMOJI) <= 9
    assert {emotion.group for emotion in EMOTIONS} == set(GROUP_EMOJI)
    for group, label in GROUP_EMOJI.items():
        assert emotion_group(label) == group
        assert group_label(label) == label


@pytest.mark.parametrize("text", [*LABELS, "👨‍👩‍👧", "🇯🇵", "👍🏽", "❤️", "1️⃣"])
def test_one_emoji(text):
    assert is_single_emoji(text)
    assert emojis_in(f"あ{text}い") == [text]


@pytest.mark.parametrize("text", ["", "😀😀", "😀!", "あ", ":)", "1", "\ufe0f", "😀 "])
def test_not_one_emoji(text):
    assert not is_single_emoji(text)


def test_the_frowning_face_keeps_its_variation_selector():
    assert "☹️" in LABELS and len("☹️") == 2


def test_emojis_outside_the_labels_have_groups_too():
    assert emotion_group("😡") == "怒り"
    assert emotion_group("😮‍💨") == "疲れ"
    assert emotion_group("🐱") is None
    assert group_label("🐱") is None
