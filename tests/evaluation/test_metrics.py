"""Metrics against hand-computed cases and against scikit-learn and SciPy."""

import random

import pytest
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from emojitune.metrics import (
    calibration_error,
    half_width,
    macro_f1,
    mcnemar,
    most_frequent,
    rate_of,
    wilson_interval,
)


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (5, 10), (10, 10), (31, 50), (1, 500)])
def test_wilson_interval_is_scipys(successes, count):
    expected = binomtest(successes, count).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, count) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_half_of_fifty_is_known_to_thirteen_points():
    assert half_width(0.5, 50) == pytest.approx(0.134, abs=0.001)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_macro_f1_by_hand():
    # 😀: 1 hit, 1 missed, 0 false: 2/3. 😭: 1 hit, 0 missed, 1 false: 2/3. 😤: missed altogether: 0.
    labels, replies = ["😀", "😀", "😭", "😤"], ["😀", "😭", "😭", "🐱"]
    assert macro_f1(labels, replies) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


def test_macro_f1_is_scikit_learns():
    generator = random.Random(7)
    labels = [generator.choice("ABCDE") for _ in range(200)]
    replies = [label if generator.random() < 0.6 else generator.choice("ABCDEX") for label in labels]
    expected = f1_score(labels, replies, labels=sorted(set(labels)), average="macro", zero_division=0)
    assert macro_f1(labels, replies) == pytest.approx(expected)


def test_mcnemar_counts_only_what_differs():
    first = [True] * 5 + [False] * 5 + [True] * 2 + [False] * 10
    second = [True] * 5 + [False] * 5 + [False] * 2 + [True] * 10
    assert mcnemar(first, second) == pytest.approx(binomtest(2, 12, 0.5).pvalue)
    assert mcnemar(first, first) == 1.0
    assert mcnemar(first, second) == mcnemar(second, first)


def test_calibration_error_by_hand():
    # Of four answers held for 75 % sure two are right: 0.25 off; of two at 100 % both: 0. Weighted: 4/6 of 0.25.
    confidences, right = [0.75] * 4 + [1.0] * 2, [True, True, False, False, True, True]
    assert calibration_error(confidences, right) == pytest.approx(0.25 * 4 / 6)
    assert calibration_error([], []) == 0.0


def test_rate_and_most_frequent():
    assert rate_of([True, False, True, True])["rate"] == 0.75
    assert rate_of([])["interval"] == [0.0, 1.0]
    assert most_frequent(["b", "a", "a", "b"]) == "b"
