"""What a curve says: fourteen histories, the story's among them."""

import pytest

from emojitune.diagnosis import Curve, curve_of, diagnose

STORY_TRAINING = [1.86, 1.31, 0.97, 0.70, 0.48, 0.32]
STORY_VALIDATION = [1.22, 1.24, 1.33, 1.45, 1.58, 1.71]

HISTORIES = {
    # name: (training, validation after each epoch, validation samples, labels, kind, best epoch)
    "the story": (STORY_TRAINING, STORY_VALIDATION, 50, 25, "overfitting", 1),
    "overfitting late": ([2.9, 2.1, 1.5, 0.9, 0.4], [2.6, 2.1, 1.9, 2.2, 2.6], 500, 25, "overfitting", 3),
    "overfitting slightly": ([2.9, 2.1, 1.6, 1.3], [2.5, 2.0, 1.9, 2.0], 500, 25, "overfitting", 3),
    "still improving": ([3.1, 2.6, 2.2], [2.9, 2.4, 2.1], 500, 25, "still improving", 3),
    "still improving from far": ([9.0, 4.0], [6.0, 3.2], 500, 25, "still improving", 2),
    "levelled off": ([2.0, 1.4, 1.2, 1.1], [1.8, 1.5, 1.49, 1.5], 500, 25, "levelled off", 3),
    "a rise within the noise of few samples": ([2.0, 1.4, 1.2], [1.8, 1.50, 1.55], 50, 25, "levelled off", 2),
    "the same rise with many samples": ([2.0, 1.4, 1.2], [1.8, 1.50, 1.58], 2000, 25, "overfitting", 2),
    "underfitting": ([3.2, 3.18, 3.17], [3.2, 3.19, 3.19], 500, 25, "underfitting", 2),
    "nan in training": ([2.0, None], [1.9], 500, 25, "diverged", 1),
    "nan in validation": ([2.0, 2.1], [1.9, None], 500, 25, "diverged", 1),
    "exploded": ([2.0, 9.0], [1.9, 30.0], 500, 25, "diverged", 1),
    "one epoch": ([2.0], [1.5], 500, 25, "too little to tell", 1),
    "no epoch yet": ([], [], 500, 25, "too little to tell", None),
    "too few validation samples": ([2.0, 1.0, 0.5], [1.5, 1.8, 2.4], 10, 25, "too little to tell", 1),
}


def curve(training, validation, before=12.0):
    after = [(epoch, loss, 0.4) for epoch, loss in enumerate(validation, 1)]
    return Curve([(float(epoch), loss) for epoch, loss in enumerate(training, 1)], [(0, before, 0.0), *after])


@pytest.mark.parametrize("name", HISTORIES)
def test_histories(name):
    training, validation, samples, labels, kind, best = HISTORIES[name]
    found = diagnose(curve(training, validation), samples, labels)
    assert (found.kind, found.best_epoch) == (kind, best)
    assert found.title and found.findings and found.advice


def test_the_story_says_from_when_how_strong_and_what_to_do():
    found = diagnose(curve(STORY_TRAINING, STORY_VALIDATION), 50, 25)
    assert found.title == "Overfitting from epoch 2 on, strong"
    assert "6, was 40% worse" in " ".join(found.findings)
    assert any("--epochs 1" in sentence for sentence in found.advice)


@pytest.mark.parametrize("name", HISTORIES)
def test_every_advice_names_a_flag_or_says_why_none(name):
    training, validation, samples, labels, kind, _ = HISTORIES[name]
    advice = " ".join(diagnose(curve(training, validation), samples, labels).advice)
    assert "--" in advice or kind == "levelled off"


def test_curve_takes_the_mean_of_each_epoch_and_keeps_the_point_before_training():
    rows = [
        {
            "step": 0,
            "epoch": 0.0,
            "validation_loss": 20.0,
            "validation_label_loss": 11.0,
            "validation_exact_accuracy": 0.0,
        },
        {"step": 5, "epoch": 0.5, "training_loss": 4.0, "training_label_loss": 3.0},
        {"step": 10, "epoch": 1.0, "training_loss": 2.0, "training_label_loss": 1.0},
        {
            "step": 10,
            "epoch": 1.0,
            "validation_loss": 2.0,
            "validation_label_loss": 1.5,
            "validation_exact_accuracy": 0.5,
        },
        {"step": 15, "epoch": 1.5, "training_loss": None, "training_label_loss": None},
    ]
    found = curve_of(rows)
    assert found.training == [(1.0, 2.0), (2.0, None)]
    assert found.validation == [(0.0, 11.0, 0.0), (1.0, 1.5, 0.5)]
