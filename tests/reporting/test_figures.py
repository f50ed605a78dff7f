"""Pictures: nothing that training or data can bring makes them fail."""

import numpy as np
import pytest
from fakes import history, predictions, results
from matplotlib import pyplot as plt
from PIL import Image

from emojitune.data.emojis import LABELS
from emojitune.reporting import figures
from emojitune.reporting.diagnosis import load_curve


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts(figure):
    figure.canvas.draw()
    return [text.get_text() for axes in figure.axes for text in axes.findobj(plt.Text)]


@pytest.mark.parametrize("kept", [None, 2, 3], ids=["none kept", "kept", "an epoch that the curve does not have"])
@pytest.mark.parametrize("rows", [[], history([], []), history([2.0], []), history([2.0, 1.0], [1.5, 1.8])])
def test_a_loss_figure_is_drawn_whatever_the_run_has_come_to(rows, kept):
    assert "title" in texts(figures.loss_figure(load_curve(rows), "title", kept))


def test_the_loss_figure_names_the_gap_the_start_and_the_kept_epoch():
    shown = texts(figures.loss_figure(load_curve(history([2.0, 1.0], [1.5, 1.8])), "title", 1))
    assert {"gap 0.80", "before training: 13.30", "best epoch 1: its weights are kept"} <= set(shown)


def test_every_label_has_a_picture_of_its_own():
    pictures = {figures.emoji_image(label).tobytes() for label in LABELS}
    assert len(pictures) == len(LABELS)
    assert all(np.any(figures.emoji_image(label)[..., 3]) for label in LABELS)


def test_word_labels_are_written_and_emojis_are_pasted(tmp_path):
    words = ["positive", "怒り", "$x$"]
    assert set(words) <= set(texts(figures.confusion_figure(predictions(words), words)))
    emojis = figures.confusion_figure(predictions(), list(LABELS))
    assert not set(LABELS) & set(texts(emojis)) and len(emojis.axes[0].artists) == 2 * len(LABELS)
    figures.draw_labels({"positive": 3, "怒り": 0}, "words", tmp_path / "labels.png")
    assert Image.open(tmp_path / "labels.png").size[0] > 300


def test_a_row_of_the_confusion_is_in_percent_of_its_label():
    shown = texts(figures.confusion_figure(predictions(["a", "b"], right=7), ["a", "b"]))
    assert shown.count("70") == shown.count("30") == 2


@pytest.mark.parametrize("words", [False, True], ids=["emojis", "words"])
def test_figures_of_an_evaluation_leave_out_what_words_do_not_have(words):
    shown = texts(figures.comparison_figure(results(words=words)))
    assert ("format\nrate" in shown) != words and "n-gram model, exact: 52" in shown
    only = {"finetuned": results(words=words)["finetuned"]}
    assert "turn" in texts(figures.conversations_figure(only))
    slices = only["finetuned"].slices
    assert "質問 (50)" in texts(figures.slices_figure(slices, only["finetuned"].scores.exact_accuracy))
