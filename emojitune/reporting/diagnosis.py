"""What a loss history says, in words, and what to do next.

All losses are answer losses: minus the log of a whole answer's probability, without the end of turn, learnt at once.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any, NamedTuple

from emojitune.artifacts import OutputDirectory, rerun_command
from emojitune.stats import DIVERGED_LOSS, ci_half_width, is_diverged

FEW_VALIDATION_SAMPLES = 25  # one of so few is 4 % of the mean: the curve is mostly noise

# A change counts when it is larger than chance makes it. The loss of single samples spreads about as widely as its
# mean, so the mean of n of them has a standard error of 1/sqrt(n) of itself; between two epochs on the same samples
# most of that cancels, and half is left. Never less than 2 %, which nobody would act on.
MIN_CHANGE = 0.02

MIN_LOSS = 0.01  # changes are relative to the loss, but to none below this: 0.0002 is not "twice as bad" as 0.0001
CLEAR, STRONG = 0.10, 0.30  # how much worse than the best epoch the last one is
UNDERFIT_SHARE = 0.6  # of the loss of guessing, ln(labels): a training loss above it means that little was learnt

TRAIN = "03_train_model.py"


class Epoch(NamedTuple):
    """An epoch that has ended; `training` is None where its loss was no finite number, so only in a diverged run."""

    number: int
    training: float | None
    validation: float
    accuracy: float


@dataclass(frozen=True)
class LossCurve:
    """A loss history by epoch. A loss is None where it was not finite, in validation also where it exploded.

    steps: epoch (a fraction), mean training loss since the row before.
    training: epoch, mean training loss of its own steps. An epoch that has not ended stands where it has come to.
    validation: epoch, loss, exact accuracy (a fraction of 1). Epoch 0 is the point before training.
    diverged: a logged loss was not finite or above DIVERGED_LOSS, which is what step 3 stops at.
    """

    steps: list[tuple[float, float | None]]
    training: list[tuple[float, float | None]]
    validation: list[tuple[float, float | None, float]]
    diverged: bool

    @property
    def epochs(self) -> list[Epoch]:
        """The epochs that ended, and not with a loss that is a sign of divergence."""
        training = dict(self.training)
        after = [point for point in self.validation if point[0] > 0 and point[1] is not None]
        return [Epoch(round(epoch), training.get(epoch), loss, accuracy) for epoch, loss, accuracy in after]

    @property
    def best(self) -> Epoch | None:
        return min(self.epochs, key=lambda epoch: epoch.validation, default=None)


@dataclass(frozen=True)
class Diagnosis:
    """`kind` is overfitting, underfitting, still improving, levelled off, unstable, diverged or too little to tell.

    `findings` say what was seen, `advice` what to do: sentences. `best_epoch` is None when no epoch has ended.
    """

    kind: str
    title: str
    best_epoch: int | None
    findings: list[str]
    advice: list[str]


def load_curve(rows: Sequence[dict[str, Any]]) -> LossCurve:
    """The curve in the rows of loss_history.jsonl."""
    steps = [(row["epoch"], row["training_answer_loss"]) for row in rows if "training_loss" in row]
    names = ("epoch", "validation_loss", "validation_answer_loss", "validation_exact_accuracy")
    points = [[row[name] for name in names] for row in rows if "validation_loss" in row]
    losses = [row[name] for row in rows for name in ("training_loss", "validation_loss") if name in row]
    return LossCurve(
        steps,
        _epoch_means(steps, last=max((row["epoch"] for row in rows), default=0.0)),
        validation=[(epoch, None if is_diverged(loss) else answer, rate) for epoch, loss, answer, rate in points],
        diverged=any(map(is_diverged, losses)),
    )


def _epoch_means(steps: Sequence[tuple[float, float | None]], last: float) -> list[tuple[float, float | None]]:
    """The mean of each epoch. A logging window that crosses the end of an epoch counts for both, by its shares."""
    losses, widths = defaultdict(list), defaultdict(list)
    for (start, _), (end, loss) in pairwise([(0.0, None), *steps]):
        for epoch in range(math.floor(start) + 1, math.ceil(end) + 1):
            losses[epoch].append(math.nan if loss is None else loss)
            widths[epoch].append(min(end, epoch) - max(start, epoch - 1))
    means = {epoch: fmean(losses[epoch], widths[epoch]) for epoch in losses}
    return [(float(min(epoch, last)), None if math.isnan(mean) else mean) for epoch, mean in means.items()]


def diagnose(
    curve: LossCurve, validation_samples: int, labels: int, settings: Mapping[str, Any], output: OutputDirectory
) -> Diagnosis:
    """What the curve of a run says. The number of validation samples tells how noisy it is, that of the labels what
    guessing would give, and the settings of the run are what advice changes."""
    best, rate = curve.best, settings["learning_rate"]
    number = best.number if best else None
    if curve.diverged:
        findings = [f"A loss was above {DIVERGED_LOSS:g}, or no number any more: the steps were too large."]
        if best:
            findings.append(f"Step 3 keeps the weights of epoch {number}, the best before that.")
        advice = _train("Lower the learning rate to a tenth", output, "--learning-rate", f"{0.1 * rate:.1g}")
        return Diagnosis("diverged", "Diverged: the loss exploded", number, findings, [advice])
    advice = _longer("The best epoch is kept, so train longer to see the curve turn", 4, curve, settings, output)
    if best is None:
        what, why = "no epoch has ended", "There is no validation loss after training yet."
    elif validation_samples < FEW_VALIDATION_SAMPLES:
        what = f"{validation_samples} validation samples"
        points = 100 * ci_half_width(validation_samples)
        why = f"So few show an accuracy to ±{points:.0f} points, a loss no better."
        advice = "Use more samples, or hold back a larger share: step 2 with --validation-fraction."
    elif len(curve.epochs) == 1:
        what, why = "one epoch", "One epoch gives one point; overfitting would show in the second or third."
    else:
        return _diagnose_trend(curve, validation_samples, labels, settings, output)
    findings = [why, _gap(best)] if best else [why]
    return Diagnosis("too little to tell", f"Too little to tell: {what}", number, findings, [advice])


def _diagnose_trend(
    curve: LossCurve, validation_samples: int, labels: int, settings: Mapping[str, Any], output: OutputDirectory
) -> Diagnosis:
    best, previous, last, rate = curve.best, *curve.epochs[-2:], settings["learning_rate"]
    noise = max(MIN_CHANGE, 0.5 / math.sqrt(validation_samples))
    lowest = min(epoch.training for epoch in curve.epochs)
    if last.training - lowest > max(noise, CLEAR) * max(lowest, 1):  # near 0 it wavers anyway
        rose = f"The mean training loss rose from {lowest:.2f} to {last.training:.2f}: the steps are too large."
        slower = _train("Lower the learning rate to a third", output, "--learning-rate", f"{0.33 * rate:.1g}")
        return Diagnosis("unstable", "Unstable: the training loss rose", best.number, [rose], [slower])
    keeps = f"Step 3 keeps the weights of epoch {best.number}."
    worse = (last.validation - best.validation) / max(best.validation, MIN_LOSS)
    if worse > noise:
        strength = "strong" if worse > STRONG else "clear" if worse > CLEAR else "slight"
        findings = [
            f"The best epoch is {best.number}, with a validation loss of {best.validation:.2f}; the last, "
            f"{last.number}, was {worse:.0%} worse. {keeps}",
            _gap(last),
        ]
        if last.accuracy > best.accuracy:
            rose = f"Exact accuracy still rose, from {best.accuracy:.1%} to {last.accuracy:.1%}"
            findings.append(f"{rose}: more answers were right, and the wrong ones were given with more confidence.")
        less = "; fewer labels too: step 1 with --labels or, for emojis, --groups." if labels > 2 else "."
        advice = [_train("Stop there next time", output, "--epochs", str(best.number)), f"More samples help most{less}"]
        title = f"Overfitting from epoch {best.number + 1} on, {strength}"
        return Diagnosis("overfitting", title, best.number, findings, advice)
    gain = (previous.validation - last.validation) / max(previous.validation, MIN_LOSS)
    if last == best and gain > noise:
        findings = [f"The last epoch still lowered the validation loss by {gain:.0%}.", _gap(last)]
        longer = "The best epoch is kept, so too long costs only time; train longer"
        advice = _longer(longer, 2 * last.number, curve, settings, output)
        title = f"Still improving after {last.number} epochs"
        return Diagnosis("still improving", title, best.number, findings, [advice])
    guessing = math.log(labels)
    if labels > 1 and last.training > UNDERFIT_SHARE * guessing:
        near = f"Guessing among {labels} labels gives a loss of {guessing:.2f}, and training is not far below that."
        faster = _train("Raise the learning rate", output, "--learning-rate", f"{3 * rate:.1g}")
        advice = [faster, _longer("Or train longer", 2 * last.number, curve, settings, output)]
        title = "Underfitting: the model has learnt little"
        return Diagnosis("underfitting", title, best.number, [near, _gap(last)], advice)
    still = "The validation loss has stopped falling, and has not risen by more than chance would make it"
    advice = "More epochs would bring nothing but overfitting; more or better samples would help."
    title = f"Levelled off: best at epoch {best.number}"
    return Diagnosis("levelled off", title, best.number, [f"{still} ({noise:.0%}). {keeps}", _gap(best)], [advice])


def _train(advice: str, output: OutputDirectory, *flag: str) -> str:
    """Advice to train again, with the command; one that repeated all flags of the run would be long."""
    return f"{advice}, with your other flags: {rerun_command(TRAIN, output, *flag)}"


def _longer(advice: str, epochs: int, curve: LossCurve, settings: Mapping[str, Any], output: OutputDirectory) -> str:
    """Advice to train for more epochs; or to let the run finish, unless its epochs or its patience are used up."""
    worse = len(curve.epochs) - (curve.best.number if curve.best else 0)
    if len(curve.epochs) < settings["epochs"] and worse < (settings.get("early_stopping_patience") or math.inf):
        return f"Let the run finish; if it was interrupted: {rerun_command(TRAIN, output, '--resume')}"
    return _train(advice, output, "--epochs", str(epochs))


def _gap(epoch: Epoch) -> str:
    """How far apart training and validation are, and what that means."""
    gap = epoch.validation - epoch.training
    meaning = "it knows much of the training data by heart"
    if gap < 0:
        meaning = "nothing points to learning by heart; the former is the mean of an epoch whose first steps knew less"
    elif gap < 0.1:
        meaning = "nothing points to learning by heart"
    elif gap < math.log(2):  # not yet half as probable
        meaning = "some of what it learnt holds for the training samples only"
    return (
        f"At epoch {epoch.number} the training loss is {epoch.training:.2f} and the validation loss "
        f"{epoch.validation:.2f}: the right answer typically gets a probability of {math.exp(-epoch.training):.0%} in "
        f"training and {math.exp(-epoch.validation):.0%} in validation, so {meaning}."
    )
