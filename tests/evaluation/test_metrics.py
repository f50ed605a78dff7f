"""Scores against scikit-learn, scipy, and numbers worked out by hand."""

import random

import pytest
from scipy.stats import binomtest
from sklearn.metrics import log_loss, top_k_accuracy_score

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

EMOJIS, WORDS = ["😀", "😭", "😤", "🤮"], ["anger", "joy", "sad"]


def prediction(label, reply, choice=None, labels=EMOJIS, sure=0.7, **fields):
    choice = choice or label
    rest = (1 - sure) / (len(labels) - 1)
    return Prediction([], "text", label, 1, reply, choice, {x: sure if x == choice else rest for x in labels}, fields)


def random_predictions(labels, count=100):
    generator, found = random.Random(7), []
    for _ in range(count):
        weights = [generator.random() for _ in labels]
        shares = {label: weight / sum(weights) for label, weight in zip(labels, weights, strict=True)}
        label, reply = generator.choice(labels), generator.choice([*labels, "?"])
        found.append(Prediction([], "text", label, 1, reply, max(shares, key=shares.get), shares, {}))
    return found


def test_scores_are_scikit_learns():
    found, labels = random_predictions(EMOJIS), sorted(EMOJIS)
    truth, table = [p.label for p in found], [[p.probabilities[label] for label in labels] for p in found]
    scores = score(found, EMOJIS)
    assert scores.log_loss == pytest.approx(log_loss(truth, table, labels=labels))
    assert scores.restricted_top3_accuracy.rate == pytest.approx(top_k_accuracy_score(truth, table, k=3, labels=labels))


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
    for name in ("group_accuracy", "format_rate", "unseen_emoji_rate", "restricted_group_accuracy"):
        assert getattr(scores, name) is None
    assert scores.unseen_emojis == []


def test_an_impossible_label_does_not_make_the_loss_infinite():
    assert score([prediction("😀", "😀", "😭", sure=1.0)], EMOJIS).log_loss == pytest.approx(20.7, abs=0.1)


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
