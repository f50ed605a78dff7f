"""Scores against scipy and numbers worked out by hand."""

from math import log

import pytest
from scipy.stats import binomtest

from emojitune.evaluation.metrics import (
    Comparison,
    UnseenEmoji,
    calibration_error,
    compare,
    macro_f1,
    score,
    slice_scores,
)
from emojitune.evaluation.predictions import Prediction
from emojitune.inference.prompts import build_messages

EMOJIS, WORDS = ["😀", "😭", "😤", "🤮"], ["anger", "joy", "sad"]


def prediction(label, reply, choice=None, labels=EMOJIS, sure=0.7, **fields):
    probabilities = dict.fromkeys(labels, (1 - sure) / (len(labels) - 1)) | {choice or label: sure}
    return Prediction(build_messages("text"), label, 1, fields, 1, reply, probabilities)


def test_log_loss_and_top_3_accuracy_by_hand():
    # The choice has 0.7, each of the others 0.1: those after it in the order of the labels make up the top three.
    scores = score([prediction("😀", "?"), prediction("😤", "?", "😀"), prediction("🤮", "?", "😀")], EMOJIS)
    assert scores.log_loss == pytest.approx(-(log(0.7) + 2 * log(0.1)) / 3)
    assert scores.restricted_top3_accuracy.rate == 2 / 3
    held_for_impossible = score([prediction("😀", "😀", "😭", sure=1.0)], EMOJIS)
    assert held_for_impossible.log_loss == pytest.approx(20.7, abs=0.1)  # not infinite


def test_macro_f1_by_hand():
    # 😀: 1 hit, 1 missed: 2/3. 😭: 1 hit, 1 false: 2/3. 😤: missed, by an answer that is no label: 0.
    assert macro_f1(["😀", "😀", "😭", "😤"], ["😀", "😭", "😭", "🐱"]) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


def test_the_first_emoji_counts_for_the_group_and_the_whole_reply_for_exact_accuracy():
    pairs = [("😭", "😭"), ("😭", "😭 つらい"), ("😭", "😢"), ("😀", "😢"), ("😀", "")]
    scores = score([prediction(label, reply) for label, reply in pairs], EMOJIS)
    rates = (scores.exact_accuracy, scores.group_accuracy, scores.format_rate)
    assert [round(5 * rate.rate) for rate in rates] == [1, 3, 3]
    assert scores.unseen_emojis == [UnseenEmoji("😢", 2, "悲しみ", 1)] and scores.unseen_emoji_rate.rate == 2 / 5


def test_labels_of_words_have_no_scores_that_only_emojis_have():
    scores = score([prediction("joy", "joy", labels=WORDS), prediction("sad", "😀", "joy", labels=WORDS)], WORDS)
    assert scores.exact_accuracy.rate == scores.restricted_exact_accuracy.rate == 0.5
    top3 = "restricted_top3_accuracy"  # always right, of three labels
    for name in ("group_accuracy", "format_rate", "unseen_emoji_rate", "restricted_group_accuracy", top3):
        assert getattr(scores, name) is None
    assert scores.unseen_emojis == []


def test_models_are_compared_by_the_replies_that_only_one_got_right():
    right, wrong = prediction("😀", "😀", "😭"), prediction("😀", "?", "😀")
    other, finetuned = ["😀", "?", "😀"] * 2 + ["?"] * 10, [right, wrong, wrong] * 2 + [right] * 10
    assert compare(other, finetuned) == Comparison(pytest.approx(binomtest(2, 12).pvalue), 16)


def test_calibration_error_by_hand():
    # Of four answers held for 75 % sure two are right: 0.25 off; of two at 100 % both: 0. Weighted: 4/6 of 0.25.
    confidences, right = [0.75] * 4 + [1.0] * 2, [True, True, False, False, True, True]
    assert calibration_error(confidences, right) == pytest.approx(0.25 * 4 / 6)


def test_slices_are_of_every_field_with_2_to_30_values_worst_first():
    found = [
        prediction("😀", reply, form=form, author=f"{number}", source="web", **({"late": "yes"} if number else {}))
        for number, (form, reply) in enumerate([("お礼", "😀"), ("愚痴", "😭"), ("愚痴", "😀"), ("実況", "😭")] * 10)
    ]
    slices = slice_scores(found, EMOJIS)
    assert {part.field for part in slices} == {"form"}
    assert [(part.value, part.exact_accuracy.rate) for part in slices] == [("実況", 0), ("愚痴", 0.5), ("お礼", 1)]
    assert not slice_scores(found[:5], EMOJIS)  # three forms of five are no slices
