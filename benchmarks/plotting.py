"""Pictures of the benchmarks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from emojitune.reporting.figures import BLUE, ORANGE, save


def draw_learning_curve(points: Sequence[Mapping[str, Any]], epochs: int, replies: int, path: Path) -> None:
    """Exact accuracy against samples per label, for Gemma and for the n-gram model, with 95 % intervals.

    Each point has `samples_per_label` and the Rates `gemma` and `ngram`.
    """
    figure, axes = plt.subplots(figsize=(7, 4.2))
    sizes = [point["samples_per_label"] for point in points]
    for name, label, color in (("gemma", "fine-tuned Gemma", ORANGE), ("ngram", "character n-gram model", BLUE)):
        rates = [point[name] for point in points]
        low, high = [100 * rate.low for rate in rates], [100 * rate.high for rate in rates]
        axes.fill_between(sizes, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(sizes, [100 * rate.rate for rate in rates], color=color, marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set(ylim=(0, 100), xlabel="training samples per label", ylabel="exact accuracy, %")
    axes.set_title(f"Would more data help? {replies} validation replies, after {epochs} epochs")
    axes.legend(loc="upper left")
    save(figure, path)
