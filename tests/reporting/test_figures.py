"""Pictures: nothing that training or data can bring makes them fail."""

import pytest
from fakes import history, predictions, results
from matplotlib import pyplot as plt
from PIL import Image

from emojitune.data.emojis import LABELS
from emojitune.reporting import figures
from emojitune.reporting.diagnosis import load_curve


def texts(figure):
    figure.canvas.draw()
    found = {text.get_text() for axes in figure.axes for text in axes.findobj(plt.Text)}
    plt.close(figure)
    return found


@pytest.mark.parametrize("training", [None, [], [2.0], [2.0, None]])
def test_a_loss_figure_is_drawn_whatever_the_run_has_come_to(training):
    curve = load_curve([] if training is None else history(training, training[1:]))
    assert "title" in texts(figures.loss_figure(curve, "title", 1))


def test_the_loss_figure_names_the_gap_the_start_and_the_kept_epoch():
    shown = texts(figures.loss_figure(load_curve(history([2.0, 1.0], [1.5, 1.8])), "title", 1))
    assert {"gap 0.80", "before training: 13.30", "best epoch 1: its weights are kept"} <= shown


def test_an_epoch_that_has_not_ended_does_not_scale_the_comparison():
    runs = {"done": load_curve(history([2.0, 1.0], [1.5, 1.8])), "going": load_curve(history([14.0], []))}
    figure = figures.runs_figure(runs)
    assert figure.axes[0].get_ylim()[1] < 3 and {"done", "going"} <= texts(figure)


def test_every_label_has_a_picture_of_its_own():
    pictures = [figures.emoji_image(label) for label in LABELS]
    assert len({pixels.tobytes() for pixels in pictures}) == len(LABELS) and all(p[..., 3].any() for p in pictures)


def test_word_labels_are_written_and_emojis_are_pasted(tmp_path):
    words = ["positive", "怒り", "$x$"]
    pairs = [(p.label, p.choice) for p in predictions(words)]
    assert {*words, "70", "30"} <= texts(figures.confusion_figure(pairs, words))  # in % of the row
    emojis = figures.confusion_figure([(label, label) for label in LABELS], LABELS)
    assert len(emojis.axes[0].artists) == 2 * len(LABELS) and not set(LABELS) & texts(emojis)
    figures.draw_labels({"positive": 3, "怒り": 0}, "words", tmp_path / "labels.png")
    assert Image.open(tmp_path / "labels.png").size[0] > 300


def test_a_comparison_leaves_out_what_words_do_not_have_and_slices_name_their_counts():
    for words in (False, True):
        shown = texts(figures.comparison_figure(results(words=words)))
        assert ("format\nrate" in shown) != words and "n-gram model, exact: 52" in shown
    tuned = results()["finetuned"]
    assert "質問 (50)" in texts(figures.slices_figure(tuned.slices, tuned.scores.exact_accuracy))
