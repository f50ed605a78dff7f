"""What a curve says: seventeen histories, overfitting from the first epoch on among them."""

from pathlib import Path

import pytest
from fakes import evaluated, history, logged

from emojitune.artifacts import OutputDirectory
from emojitune.reporting.diagnosis import DIVERGED_LOSS, diagnose, load_curve
from emojitune.training import callbacks

HERE = OutputDirectory(Path("my outputs"))
FIRST_EPOCH_BEST = ([1.86, 1.31, 0.97, 0.70, 0.48, 0.32], [1.22, 1.24, 1.33, 1.45, 1.58, 1.71])

HISTORIES = {
    # name: (training, validation after each epoch, validation samples, kind, best epoch)
    "overfitting from the first epoch on": (*FIRST_EPOCH_BEST, 50, "overfitting", 1),
    "overfitting late": ([2.9, 2.1, 1.5, 0.9, 0.4], [2.6, 2.1, 1.9, 2.2, 2.6], 500, "overfitting", 3),
    "overfitting slightly": ([2.9, 2.1, 1.6, 1.3], [2.5, 2.0, 1.9, 2.0], 500, "overfitting", 3),
    "still improving": ([3.1, 2.6, 2.2], [2.9, 2.4, 2.1], 500, "still improving", 3),
    "still improving from far": ([9.0, 4.0], [6.0, 3.2], 500, "still improving", 2),
    "levelled off": ([2.0, 1.4, 1.2, 1.1], [1.8, 1.5, 1.49, 1.5], 500, "levelled off", 3),
    "a rise within the noise of few samples": ([2.0, 1.4, 1.2], [1.8, 1.50, 1.55], 50, "levelled off", 2),
    "the same rise with many samples": ([2.0, 1.4, 1.2], [1.8, 1.50, 1.58], 2000, "overfitting", 2),
    "underfitting": ([3.2, 3.18, 3.17], [3.2, 3.19, 3.19], 500, "underfitting", 2),
    "unstable": ([2.0, 9.0], [1.9, 30.0], 500, "unstable", 1),
    "learnt by heart, all of it": ([0.5, 0.0, 0.0], [0.4, 0.0, 0.0], 500, "levelled off", 2),
    "nan in training": ([2.0, None], [1.9], 500, "diverged", 1),
    "nan in validation": ([2.0, 2.1], [1.9, None], 500, "diverged", 1),
    "exploded": ([2.0, 60.0], [1.9], 500, "diverged", 1),
    "one epoch": ([2.0], [1.5], 500, "too little to tell", 1),
    "no epoch yet": ([], [], 500, "too little to tell", None),
    "too few validation samples": ([2.0, 1.0, 0.5], [1.5, 1.8, 2.4], 10, "too little to tell", 1),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_every_history_is_named_and_its_advice_can_be_pasted(name):
    training, validation, samples, kind, best = HISTORIES[name]
    found = diagnose(load_curve(history(training, validation)), samples, 25, HERE)
    assert (found.kind, found.best_epoch) == (kind, best)
    assert found.title and found.findings
    for advice in found.advice if kind != "levelled off" else ():
        assert ": uv run 0" in advice and advice.endswith("--output-dir 'my outputs'")


def test_overfitting_says_from_when_how_strong_how_far_apart_and_what_to_do():
    found = diagnose(load_curve(history(*FIRST_EPOCH_BEST)), 50, 25, HERE)
    assert found.title == "Overfitting from epoch 2 on, strong"
    assert "the last, 6, was 40% worse" in found.findings[0]
    assert "training loss is 0.32 and the validation loss 1.71" in found.findings[1] and "by heart" in found.findings[1]
    assert "--epochs 1 " in found.advice[0]


def test_a_lower_learning_rate_is_named_as_a_number():
    found = diagnose(load_curve(history([2.0, None], [1.9])), 500, 25, HERE)
    assert "--learning-rate 5e-05" in found.advice[0]


def test_a_logging_window_counts_for_each_epoch_that_it_covers_by_its_share():
    rows = [
        evaluated(0.0, 11.0, 0.0),
        logged(0.75, 4.0),
        evaluated(1.0, 1.5, 0.5),
        logged(1.5, 1.0),  # a third of this window lies in epoch 1
        logged(1.75, None),
    ]
    curve = load_curve(rows)
    assert curve.training == [(1.0, 0.75 * 4.0 + 0.25 * 1.0), (1.75, None)]
    assert curve.steps == [(0.75, 4.0), (1.5, 1.0), (1.75, None)]
    assert curve.validation == [(0.0, 11.0, 0.0), (1.0, 1.5, 0.5)]


def test_the_diagnosis_calls_diverged_what_step_3_stops_at():
    assert DIVERGED_LOSS == callbacks.DIVERGED_LOSS
    assert (
        not load_curve([logged(0.5, DIVERGED_LOSS)]).diverged and load_curve([logged(0.5, DIVERGED_LOSS + 1)]).diverged
    )
