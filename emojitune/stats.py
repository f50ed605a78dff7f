"""What several stages share: rates with their 95 % intervals, and which loss is one of a diverged run."""

from collections.abc import Sequence
from dataclasses import dataclass

# A uniform guess over Gemma's 262,144 tokens has a loss of ln(262,144) = 12.5; the base model, which was never taught
# to end a turn, starts at about 24. Above this the weights are beyond repair.
DIVERGED_LOSS = 50.0


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


def is_diverged(loss: float | None) -> bool:
    """Whether a logged loss ends a run; None stands for one that is not finite."""
    return loss is None or not loss <= DIVERGED_LOSS  # NaN fails every comparison
