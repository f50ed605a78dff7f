"""Metrics of predictions, always fractions of 1, and what a number of samples can show."""

import math
from collections import Counter
from collections.abc import Sequence

Z95 = 1.959963984540054  # the normal quantile that leaves 2.5 % on each side


def wilson_interval(successes: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a rate (Wilson 1927): honest also for few samples and for rates near 0 and 1."""
    if count == 0:
        return 0.0, 1.0
    rate, square = successes / count, Z95 * Z95
    center = (rate + square / (2 * count)) / (1 + square / count)
    half = Z95 / (1 + square / count) * math.sqrt(rate * (1 - rate) / count + square / (4 * count * count))
    return max(0.0, center - half), min(1.0, center + half)


def half_width(rate: float, count: int) -> float:
    """Half the width of the 95 % Wilson interval of a rate seen on `count` samples."""
    low, high = wilson_interval(rate * count, count)
    return (high - low) / 2


def rate_of(outcomes: Sequence[bool]) -> dict[str, float | int | list[float]]:
    """How often something was true: rate, 95 % interval, count."""
    count = len(outcomes)
    low, high = wilson_interval(sum(outcomes), count)
    return {"rate": sum(outcomes) / max(1, count), "interval": [low, high], "count": count}


def macro_f1(labels: Sequence[str], predictions: Sequence[str | None]) -> float:
    """The mean over the labels of F1 = 2 TP / (2 TP + FP + FN). A prediction outside the labels counts as missed only,
    as scikit-learn's f1_score with `labels=` the true ones does."""
    scores = []
    for label in set(labels):
        right = sum(truth == label == guess for truth, guess in zip(labels, predictions, strict=True))
        wrong = sum((truth == label) != (guess == label) for truth, guess in zip(labels, predictions, strict=True))
        scores.append(2 * right / (2 * right + wrong))
    return sum(scores) / max(1, len(scores))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """The exact two-sided p-value of McNemar's test: how likely so unequal a number of samples that only one of two
    models got right would be, if both were equally good (McNemar 1947, binomial form)."""
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    count, fewer = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * sum(math.comb(count, k) for k in range(fewer + 1)) / 2**count)


def calibration_error(confidences: Sequence[float], right: Sequence[bool], bins: int = 10) -> float:
    """Expected calibration error (Naeini et al. 2015): over equal bins of confidence, how far the share of right
    answers is from the mean confidence, weighted by the samples in each bin."""
    if not confidences:
        return 0.0
    sums = [[0, 0.0, 0] for _ in range(bins)]  # samples, confidence, right
    for confidence, hit in zip(confidences, right, strict=True):
        cell = sums[min(bins - 1, int(confidence * bins))]
        cell[0] += 1
        cell[1] += confidence
        cell[2] += hit
    return sum(abs(hits - confidence) for _, confidence, hits in sums) / len(confidences)


def most_frequent(labels: Sequence[str]) -> str:
    """The most frequent label; of equals the one seen first."""
    return Counter(labels).most_common(1)[0][0]
