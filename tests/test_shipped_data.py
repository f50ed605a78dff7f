"""The shipped dataset: ten samples for each label, none alike, none with an emoji in its text."""

import json
from collections import Counter

from conftest import ROOT

from emojitune.dataset import DEFAULT_SYSTEM_PROMPT, near_duplicates, validate
from emojitune.emotions import LABELS, emojis_in

ROWS = json.loads((ROOT / "training_data_emotion_jp.json").read_text(encoding="utf-8"))


def test_valid_balanced_and_marked():
    samples, problems = validate(ROWS, 512, lambda conversations: [0] * len(conversations))
    assert not problems
    small = [sample for sample in samples if sample.small]
    assert Counter(sample.label for sample in small) == dict.fromkeys(LABELS, 10)
    assert {sample.system for sample in samples} == {DEFAULT_SYSTEM_PROMPT}


def test_no_two_alike_and_no_emoji_in_a_text():
    texts = [row["messages"][1]["content"] for row in ROWS]
    assert not list(near_duplicates(texts))
    assert not [text for text in texts if emojis_in(text)]
