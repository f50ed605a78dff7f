"""Pictures: nothing that training or data can bring makes them fail."""

import pytest
from fakes import history, predictions, results
from matplotlib import pyplot as plt
from PIL import Image

from emojitune.data.emojis import LABELS
from emojitune.reporting import figures
from emojitune.reporting.diagnosis import load_curve

RUNS = ([], history([], []), history([2.0], []), history([2.0, 1.0], [1.5, 1.8]))


def texts(figure):
    figure.canvas.draw()
    found = {text.get_text() for axes in figure.axes for text in axes.findobj(plt.Text)}
    plt.close(figure)
    return found


@pytest.mark.parametrize("kept", [None, 2, 3], ids=["none kept", "kept", "an epoch that the curve does not have"])
@pytest.mark.parametrize("rows", RUNS, ids=["nothing", "before training", "one epoch", "two epochs"])
def test_a_loss_figure_is_drawn_whatever_the_run_has_come_to(rows, kept):
    assert "title" in texts(figures.loss_figure(load_curve(rows), "title", kept))


def test_the_loss_figure_names_the_gap_the_start_and_the_kept_epoch():
    shown = texts(figures.loss_figure(load_curve(RUNS[-1]), "title", 1))
    assert {"gap 0.80", "before training: 13.30", "best epoch 1: its weights are kept"} <= shown


def test_every_label_has_a_picture_of_its_own():
    assert len({figures.emoji_image(label).tobytes() for label in LABELS}) == len(LABELS)
    assert all(figures.emoji_image(label)[..., 3].any() for label in LABELS)


def test_word_labels_are_written_and_emojis_are_pasted(tmp_path):
    words = ["positive", "怒り", "$x$"]
    assert {*words, "70", "30"} <= texts(figures.confusion_figure(predictions(words), words))  # in % of the row
    emojis = figures.confusion_figure(predictions(), list(LABELS))
    assert len(emojis.axes[0].artists) == 2 * len(LABELS) and not set(LABELS) & texts(emojis)
    figures.draw_labels({"positive": 3, "怒り": 0}, "words", tmp_path / "labels.png")
    assert Image.open(tmp_path / "labels.png").size[0] > 300


@pytest.mark.parametrize("words", [False, True], ids=["emojis", "words"])
def test_figures_of_an_evaluation_leave_out_what_words_do_not_have(words):
    found = results(words=words)
    shown = texts(figures.comparison_figure(found))
    assert ("format\nrate" in shown) != words and "n-gram model, exact: 52" in shown
    del found["base"]
    assert "turn" in texts(figures.conversations_figure(found))
    tuned = found["finetuned"]
    assert "質問 (50)" in texts(figures.slices_figure(tuned.slices, tuned.scores.exact_accuracy))
