"""What a curve says, overfitting from the first epoch on included."""

from pathlib import Path

import pytest
from fakes import evaluated, history, logged

from emojitune.artifacts import OutputDirectory
from emojitune.reporting.diagnosis import diagnose, load_curve

OUTPUT = OutputDirectory(Path("my outputs"))

HISTORIES = {
    # name: (training, validation after each epoch, validation samples, kind, best epoch, what is said …)
    "overfitting from the first epoch on": (
        [1.86, 1.31, 0.97, 0.70, 0.48, 0.32], [1.22, 1.24, 1.33, 1.45, 1.58, 1.71], 50, "overfitting", 1,
        "from epoch 2 on, strong", "the last, 6, was 40% worse", "loss is 0.32 and the validation loss 1.71",
        "much of the training data by heart",
    ),
    "late": ([2.9, 2.1, 1.5, 0.9, 0.4], [2.6, 2.1, 1.9, 2.2, 2.6], 500, "overfitting", 3, "--epochs 3 "),
    "slightly": ([2.9, 2.1, 1.6, 1.3], [2.5, 2.0, 1.9, 2.0], 500, "overfitting", 3, "from epoch 4 on, slight"),
    "still improving": ([9.0, 4.0], [6.0, 3.2], 500, "still improving", 2, "--epochs 4 "),
    "levelled off": ([2.0, 1.4, 1.2, 1.1], [1.8, 1.5, 1.49, 1.5], 500, "levelled off", 3, "weights of epoch 3"),
    "a rise within the noise of few": ([2.0, 1.4, 1.2], [1.8, 1.50, 1.55], 50, "levelled off", 2, "chance"),
    "the same rise with many": ([2.0, 1.4, 1.2], [1.8, 1.50, 1.58], 2000, "overfitting", 2, "slight"),
    "a learning rate far too low": ([13.3, 13.3], [13.3, 13.3], 500, "underfitting", 1, "is not far below that"),
    "underfitting": ([3.2, 3.18, 3.17], [3.2, 3.19, 3.19], 500, "underfitting", 2, "--learning-rate 0.002 "),
    "unstable": ([2.0, 9.0], [1.9, 30.0], 500, "unstable", 1, "--learning-rate 0.0002 "),
    "learnt by heart, all of it": ([0.5, 0.0, 0.0], [0.4, 0.0, 0.0], 500, "levelled off", 2, "nothing points"),
    "wavering near nothing": ([2.0, 0.7, 0.01, 0.013], [1.8, 1.5, 2.1, 2.5], 500, "overfitting", 2, "strong"),
    "an epoch that exploded": ([2.0, 60.0], [1.9, 87.0], 500, "diverged", 1, "weights of epoch 1"),
    "nan in training": ([2.0, None], [1.9], 500, "diverged", 1, "--learning-rate 5e-05 "),
    "nan in validation": ([2.0, 2.1], [1.9, None], 500, "diverged", 1, "weights of epoch 1"),
    "one epoch": ([2.0], [1.5], 500, "too little to tell", 1, "--epochs 4 "),
    "no epoch yet": ([], [], 500, "too little to tell", None, "--resume "),
    "few validation samples": ([2.0, 1.0, 0.5], [1.5, 1.8, 2.4], 10, "too little to tell", 1, "--validation-fraction."),
}  # fmt: skip


@pytest.mark.parametrize("name", HISTORIES)
def test_every_history_is_named_and_its_advice_can_be_pasted(name):
    training, validation, samples, kind, best, *said = HISTORIES[name]
    settings = {"learning_rate": 5e-4, "epochs": max(1, len(training))}
    found = diagnose(load_curve(history(training, validation)), samples, 25, settings, OUTPUT)
    assert (found.kind, found.best_epoch) == (kind, best)
    text = "\n".join([found.title, *found.findings, *found.advice])
    assert found.findings and all(words in text for words in said)
    for advice in found.advice:
        assert ": uv run 0" not in advice or advice.endswith("--output-dir 'my outputs'")


@pytest.mark.parametrize("labels", [2, 3])
def test_fewer_labels_are_advised_where_some_would_be_left_to_tell_apart(labels):
    settings = {"learning_rate": 5e-4, "epochs": 3}
    found = diagnose(load_curve(history([2.9, 2.1, 1.5], [2.6, 1.9, 2.4])), 500, labels, settings, OUTPUT)
    assert found.kind == "overfitting" and ("fewer labels" in found.advice[1]) == (labels > 2)


@pytest.mark.parametrize(
    ("validation", "patience", "goes_on"),
    [([2.0], None, True), ([2.0, 1.5], 1, True), ([3.2, 3.1, 3.1], 2, True), ([3.2, 3.1, 3.1], 1, False)],
)
def test_a_run_with_epochs_left_is_to_finish_before_it_is_to_be_longer(validation, patience, goes_on):
    """It used to be sent back to the start, with fewer epochs than it had been given."""
    settings = {"learning_rate": 5e-4, "epochs": 9, "early_stopping_patience": patience}
    advice = diagnose(load_curve(history(validation, validation)), 500, 25, settings, OUTPUT).advice[-1]
    assert ("--resume" in advice, "--epochs" in advice) == (goes_on, not goes_on)


def test_an_epoch_is_a_diverged_one_where_step_3_takes_it_for_one():
    """By the loss of all tokens: that of a whole answer of many tokens may be larger."""
    rows = [evaluated(1.0, 60.0, 0.1) | {"validation_loss": 9.0}, evaluated(2.0, 60.0, 0.1)]
    curve = load_curve(rows)
    assert [epoch.number for epoch in curve.epochs] == [1] and curve.diverged


def test_a_logging_window_counts_for_each_epoch_that_it_covers_by_its_share():
    # A third of the window that ends at 1.5 lies in epoch 1.
    steps = [(0.75, 4.0), (1.5, 1.0), (1.75, None)]
    curve = load_curve([evaluated(0.0, 11.0, 0.0), evaluated(1.0, 1.5, 0.5), *(logged(*step) for step in steps)])
    assert curve.training == [(1.0, 0.75 * 4.0 + 0.25 * 1.0), (1.75, None)]
    assert curve.steps == steps and curve.validation == [(0.0, 11.0, 0.0), (1.0, 1.5, 0.5)]
