"""What a loss history says, in words, and what to do next."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

# Below so many validation samples a curve is mostly noise: one sample is more than 4 % of the mean.
FEW_VALIDATION_SAMPLES = 25

# A rise or fall counts when it is larger than chance makes it. The loss of single samples spreads about as widely as
# its mean, so the mean of n of them moves by 1/sqrt(n) of itself from sample set to sample set; between two epochs on
# the same samples most of that cancels, and half is left. Never less than 2 %, which nobody would act on.
LEAST_CHANGE = 0.02

# How much worse than the best epoch the last one is: 1.22 to 1.71 in the story, 40 %, was plain to everyone.
CLEAR, STRONG = 0.10, 0.30

# Guessing gives a loss of ln(labels). A model whose training loss stays above this share of it has learnt little.
UNDERFIT_SHARE = 0.6

# Training has exploded when a loss is so many times the one that it began with.
EXPLOSION = 1.5


@dataclass(frozen=True)
class Curve:
    """A loss history by epoch; a loss is None where it was not a number."""

    training: list[tuple[float, float | None]]  # epoch, mean loss of the labels in it
    validation: list[tuple[float, float | None, float]]  # epoch, loss of the labels, exact accuracy; 0: before training


@dataclass(frozen=True)
class Diagnosis:
    """`kind` is overfitting, underfitting, still improving, levelled off, diverged or too little to tell."""

    kind: str
    title: str
    best_epoch: int | None
    findings: list[str]
    advice: list[str]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def curve_of(rows: Sequence[dict[str, Any]]) -> Curve:
    """The curve in the rows of a loss history: training losses as the mean of each epoch, validation as logged."""
    by_epoch: dict[int, list[float | None]] = defaultdict(list)
    validation = []
    for row in rows:
        if "training_loss" in row:
            by_epoch[max(1, math.ceil(row["epoch"] - 1e-6))].append(row.get("training_label_loss"))
        if "validation_loss" in row:
            validation.append((row["epoch"], row["validation_label_loss"], row["validation_exact_accuracy"]))
    training = [
        (float(epoch), None if None in losses else sum(losses) / len(losses))  # type: ignore[arg-type]
        for epoch, losses in sorted(by_epoch.items())
    ]
    return Curve(training, validation)


def diagnose(curve: Curve, validation_samples: int, labels: int) -> Diagnosis:
    """What the curve of a run says. `validation_samples` tells how noisy it is, `labels` what guessing would give."""
    after = [(round(epoch), loss, accuracy) for epoch, loss, accuracy in curve.validation if epoch > 0]
    numbers = [(epoch, loss) for epoch, loss, _ in after if loss is not None]
    best_epoch, best = min(numbers, key=lambda point: point[1], default=(None, math.inf))
    training = [loss for _, loss in curve.training]

    if _exploded(curve):
        kept = f"The weights of epoch {best_epoch}, before that, are kept." if numbers else "No epoch ended in numbers."
        return Diagnosis(
            "diverged",
            "Diverged: the loss exploded",
            best_epoch,
            ["The loss grew instead of falling, or is no number any more: the steps were too large.", kept],
            ["Lower the learning rate to a tenth: --learning-rate."],
        )
    if not numbers:
        return Diagnosis(
            "too little to tell",
            "Too little to tell: no epoch has ended",
            None,
            ["There is no validation loss after training yet."],
            ["Let the run finish: uv run 03_train_model.py --resume."],
        )
    if validation_samples < FEW_VALIDATION_SAMPLES:
        return Diagnosis(
            "too little to tell",
            f"Too little to tell: {validation_samples} validation samples",
            best_epoch,
            [f"With {validation_samples} validation samples, chance moves the curve as much as training does."],
            ["Use more samples, or hold back a larger share: uv run 02_split_data.py --validation-fraction 0.4."],
        )
    if len(numbers) == 1:
        return Diagnosis(
            "too little to tell",
            "Too little to tell: one epoch",
            best_epoch,
            ["One epoch gives one point; overfitting would show in the second or third."],
            ["Train longer to see the curve turn: --epochs 4. The best epoch is kept whatever comes after."],
        )

    noise = max(LEAST_CHANGE, 0.5 / math.sqrt(validation_samples))
    last_epoch, last = numbers[-1]
    worse = last / best - 1
    gain = 1 - last / numbers[-2][1]
    last_training = training[-1] if training else None
    guessing = math.log(labels) if labels > 1 else 0.0
    trained_little = last_training is not None and guessing > 0 and last_training > UNDERFIT_SHARE * guessing

    if worse > noise and (last_training is None or last_training < training[0]):
        strength = "strong" if worse > STRONG else "clear" if worse > CLEAR else "slight"
        return Diagnosis(
            "overfitting",
            f"Overfitting from epoch {best_epoch + 1} on, {strength}",
            best_epoch,
            [
                f"From epoch {best_epoch + 1} on the training loss kept falling while the validation loss rose: the "
                "model learns the training samples by heart.",
                f"The best epoch is {best_epoch}, with {best:.3f}; the last, {last_epoch}, was {worse:.0%} worse. "
                "The best epoch's weights are kept.",
            ],
            [
                f"Stop there next time: --epochs {best_epoch}.",
                "More samples help most; fewer labels too: uv run 01_prepare_data.py --groups, or --labels.",
            ],
        )
    if gain > noise and best_epoch == last_epoch:
        more = 2 * last_epoch
        findings = [f"The last epoch still lowered the validation loss by {gain:.0%}."]
        if trained_little:
            findings.append(f"The training loss, {last_training:.2f}, is not far below guessing ({guessing:.2f}) yet.")
        return Diagnosis(
            "still improving",
            f"Still improving after {last_epoch} epochs",
            best_epoch,
            findings,
            [f"Train longer: --epochs {more}. The best epoch is kept, so too long does no harm but to your time."],
        )
    if trained_little:
        return Diagnosis(
            "underfitting",
            "Underfitting: the model has learnt little",
            best_epoch,
            [
                f"The training loss stays at {last_training:.2f}; guessing among {labels} labels gives {guessing:.2f}. "
                "The model does not even fit the samples that it sees."
            ],
            ["Raise the learning rate three times: --learning-rate, or train longer: --epochs."],
        )
    return Diagnosis(
        "levelled off",
        f"Levelled off: best at epoch {best_epoch}",
        best_epoch,
        [
            f"The validation loss has stopped falling and has not risen by more than chance would ({noise:.0%}).",
            f"The best epoch is {best_epoch}, with {best:.3f}; its weights are kept.",
        ],
        ["More epochs would bring nothing but overfitting; more or better samples would help."],
    )


def _exploded(curve: Curve) -> bool:
    """Whether a loss is no number, or far above the one before training (without that, above the first epoch's)."""
    training = [loss for _, loss in curve.training]
    validation = [loss for _, loss, _ in curve.validation]
    if None in training or None in validation:
        return True
    start = next((loss for epoch, loss, _ in curve.validation if epoch == 0), None) or next(iter(training), None)
    return start is not None and any(loss > EXPLOSION * start for loss in training + validation)
