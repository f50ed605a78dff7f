"""Rates with their 95 % intervals, which the dataset report and the evaluation share."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """How often something was true, as a fraction of 1, and its 95 % interval [low, high], by Wilson (1927): it is
    honest for few samples and for rates near 0 and 1."""

    rate: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.rate:.1%} ({100 * self.low:.0f}–{100 * self.high:.0f})"


def rate_of(outcomes: Sequence[bool]) -> Rate:
    return rate_of_count(sum(outcomes), len(outcomes))


def rate_of_count(successes: int, count: int) -> Rate:
    if count == 0:
        return Rate(0.0, 0.0, 1.0, 0)
    from scipy.stats import binomtest

    interval = binomtest(successes, count).proportion_ci(method="wilson")
    return Rate(successes / count, float(interval.low), float(interval.high), count)


def ci_half_width(count: int) -> float:
    """Half the width of the 95 % interval of a rate of one half, where it is widest, seen on `count` samples."""
    rate = rate_of_count(count // 2, count)
    return (rate.high - rate.low) / 2
