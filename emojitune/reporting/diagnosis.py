"""What a loss history says, in words, and what to do next.

All losses here are answer losses: the loss without the end-of-turn tokens, which every model learns at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from emojitune.artifacts import OutputDirectory, rerun_command
from emojitune.stats import ci_half_width

# The loss above which step 3 stops a run. Reporting does not import training: a test keeps the two constants equal.
DIVERGED_LOSS = 50.0

FEW_VALIDATION_SAMPLES = 25  # one of so few is 4 % of the mean: the curve is mostly noise

# A change counts when it is larger than chance makes it. The loss of single samples spreads about as widely as its
# mean, so the mean of n of them has a standard error of 1/sqrt(n) of itself; between two epochs on the same samples
# most of that cancels, and half is left. Never less than 2 %, which nobody would act on.
MIN_CHANGE = 0.02

MIN_LOSS = 0.01  # changes are relative to the loss, but to none below this: 0.0002 is not "twice as bad" as 0.0001
CLEAR, STRONG = 0.10, 0.30  # how much worse than the best epoch the last one is
UNDERFIT_SHARE = 0.6  # of the loss of guessing, ln(labels): a training loss above it means that little was learnt

# What it means that validation is so far above training: half as probable is ln(2).
GAPS = (
    (0.1, "nothing points to learning by heart"),
    (math.log(2), "some of what it learnt holds for the training samples only"),
    (math.inf, "it knows much of the training data by heart"),
)


@dataclass(frozen=True)
class LossCurve:
    """A loss history by epoch. A loss is None where it was not a finite number.

    steps: epoch (a fraction), mean training loss since the row before.
    training: epoch, mean training loss of its own steps. An epoch that has not ended stands where it has come to.
    validation: epoch, loss, exact accuracy (a fraction of 1). Epoch 0 is the point before training.
    diverged: a logged loss was not finite or above DIVERGED_LOSS: the rule by which step 3 stops and run.json says so.
    learning_rate: the highest that was logged, or None.
    """

    steps: list[tuple[float, float | None]]
    training: list[tuple[float, float | None]]
    validation: list[tuple[float, float | None, float]]
    diverged: bool = False
    learning_rate: float | None = None


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
    validation = [
        (row["epoch"], row["validation_answer_loss"], row["validation_exact_accuracy"])
        for row in rows
        if "validation_loss" in row
    ]
    losses = [row[name] for row in rows for name in ("training_loss", "validation_loss") if name in row]
    return LossCurve(
        steps,
        _epoch_means(steps, last=max((row["epoch"] for row in rows), default=0.0)),
        validation,
        diverged=any(loss is None or loss > DIVERGED_LOSS for loss in losses),
        learning_rate=max((row["learning_rate"] for row in rows if "learning_rate" in row), default=None),
    )


def _epoch_means(steps: Sequence[tuple[float, float | None]], last: float) -> list[tuple[float, float | None]]:
    """The mean of each epoch. A logging window that crosses the end of an epoch counts for both, by its shares."""
    widths: dict[int, float] = {}
    sums: dict[int, float] = {}
    start = 0.0
    for end, loss in steps:
        for epoch in range(math.floor(start) + 1, math.ceil(end) + 1):
            width = min(end, epoch) - max(start, epoch - 1)
            widths[epoch] = widths.get(epoch, 0.0) + width
            sums[epoch] = sums.get(epoch, 0.0) + width * (math.nan if loss is None else loss)
        start = end
    means = {epoch: sums[epoch] / width for epoch, width in widths.items() if width > 0}
    return [(float(min(epoch, last)), None if math.isnan(mean) else mean) for epoch, mean in means.items()]


class _Epoch(NamedTuple):
    number: int
    training: float | None  # None where no step of it was logged
    validation: float
    accuracy: float


def diagnose(curve: LossCurve, validation_samples: int, labels: int, output: OutputDirectory) -> Diagnosis:
    """What the curve of a run says. The number of validation samples tells how noisy it is, that of the labels what
    guessing would give. Whether it diverged is read off the history, by the rule that step 3 stops by: the same rows
    and the same rule give what `ended` in run.json says, and they give it for a run in progress as well."""
    training = dict(curve.training)
    after = [point for point in curve.validation if point[0] > 0 and point[1] is not None]
    epochs = [_Epoch(round(epoch), training.get(epoch), loss, accuracy) for epoch, loss, accuracy in after]
    best = min(epochs, key=lambda epoch: epoch.validation, default=None)
    if curve.diverged:
        return _diverged(best, curve, output)
    if best is None or len(epochs) == 1 or validation_samples < FEW_VALIDATION_SAMPLES:
        return _too_little(best, validation_samples, output)
    last, previous = epochs[-1], epochs[-2]
    noise = max(MIN_CHANGE, 0.5 / math.sqrt(validation_samples))
    losses = [epoch.training for epoch in epochs if epoch.training is not None]
    if losses and _change(losses[-1], min(losses)) > max(noise, CLEAR):
        return _unstable(best, losses, curve, output)
    if _change(last.validation, best.validation) > noise:
        return _overfitting(best, last, output)
    if best is last and -_change(last.validation, previous.validation) > noise:
        return _still_improving(last, previous, output)
    if losses and labels > 1 and losses[-1] > UNDERFIT_SHARE * math.log(labels):
        return _underfitting(best, last, labels, curve, output)
    return _levelled_off(best, noise)


def _change(loss: float, before: float) -> float:
    return (loss - before) / max(before, MIN_LOSS)


def _gap(epoch: _Epoch | None) -> list[str]:
    """How far apart training and validation are, and what that means: one sentence, or none without both."""
    if epoch is None or epoch.training is None:
        return []
    meaning = next(text for limit, text in GAPS if epoch.validation - epoch.training < limit)
    return [
        f"At epoch {epoch.number} the training loss is {epoch.training:.2f} and the validation loss "
        f"{epoch.validation:.2f}: the right answer typically gets a probability of {math.exp(-epoch.training):.0%} in "
        f"training and {math.exp(-epoch.validation):.0%} in validation, so {meaning}."
    ]


def _train(output: OutputDirectory, flag: str, value: object) -> str:
    return rerun_command("03_train_model.py", output, flag, str(value))


def _rate(factor: float, curve: LossCurve) -> str:
    return "RATE" if curve.learning_rate is None else f"{factor * curve.learning_rate:.1g}"


# ---- the kinds -----------------------------------------------------------------------------------------------------


def _diverged(best: _Epoch | None, curve: LossCurve, output: OutputDirectory) -> Diagnosis:
    kept = [f"Step 3 keeps the weights of epoch {best.number}, the best before that."] if best else []
    findings = [f"A loss was above {DIVERGED_LOSS:g}, or no number any more: the steps were too large.", *kept]
    advice = [f"Lower the learning rate to a tenth: {_train(output, '--learning-rate', _rate(0.1, curve))}"]
    return Diagnosis("diverged", "Diverged: the loss exploded", best.number if best else None, findings, advice)


def _too_little(best: _Epoch | None, samples: int, output: OutputDirectory) -> Diagnosis:
    if best is None:
        what, why = "no epoch has ended", "There is no validation loss after training yet."
        resume = rerun_command("03_train_model.py", output, "--resume")
        advice = f"Let the run finish; if it was interrupted: {resume}"
    elif samples < FEW_VALIDATION_SAMPLES:
        points = 100 * ci_half_width(samples)
        what, why = (
            f"{samples} validation samples",
            f"So few show an accuracy to ±{points:.0f} points, a loss no better.",
        )
        larger = rerun_command("02_split_data.py", output, "--validation-fraction", "0.4")
        advice = f"Use more samples, or hold back a larger share: {larger}"
    else:
        what, why = "one epoch", "One epoch gives one point; overfitting would show in the second or third."
        advice = f"Train longer to see the curve turn; the best epoch is kept: {_train(output, '--epochs', 4)}"
    number = best.number if best else None
    return Diagnosis("too little to tell", f"Too little to tell: {what}", number, [why, *_gap(best)], [advice])


def _unstable(best: _Epoch, losses: Sequence[float], curve: LossCurve, output: OutputDirectory) -> Diagnosis:
    rose = f"The mean training loss rose from {min(losses):.2f} to {losses[-1]:.2f}: the steps are too large."
    advice = [f"Lower the learning rate to a third: {_train(output, '--learning-rate', _rate(0.33, curve))}"]
    return Diagnosis("unstable", "Unstable: the training loss rose", best.number, [rose], advice)


def _overfitting(best: _Epoch, last: _Epoch, output: OutputDirectory) -> Diagnosis:
    worse = _change(last.validation, best.validation)
    strength = "strong" if worse > STRONG else "clear" if worse > CLEAR else "slight"
    findings = [
        f"The best epoch is {best.number}, with a validation loss of {best.validation:.2f}; the last, {last.number}, "
        f"was {worse:.0%} worse. Step 3 keeps the weights of epoch {best.number}.",
        *_gap(last),
    ]
    if last.accuracy > best.accuracy:
        rose = f"Exact accuracy still rose, from {best.accuracy:.1%} to {last.accuracy:.1%}"
        findings.append(f"{rose}: more answers were right, and the wrong ones were given with more confidence.")
    advice = [
        f"Stop there next time: {_train(output, '--epochs', best.number)}",
        f"More samples help most; fewer labels too: {rerun_command('01_prepare_data.py', output, '--groups')}",
    ]
    title = f"Overfitting from epoch {best.number + 1} on, {strength}"
    return Diagnosis("overfitting", title, best.number, findings, advice)


def _still_improving(last: _Epoch, previous: _Epoch, output: OutputDirectory) -> Diagnosis:
    gain = -_change(last.validation, previous.validation)
    findings = [f"The last epoch still lowered the validation loss by {gain:.0%}.", *_gap(last)]
    more = _train(output, "--epochs", 2 * last.number)
    advice = [f"Train longer; the best epoch is kept, so too long costs only time: {more}"]
    return Diagnosis("still improving", f"Still improving after {last.number} epochs", last.number, findings, advice)


def _underfitting(best: _Epoch, last: _Epoch, labels: int, curve: LossCurve, output: OutputDirectory) -> Diagnosis:
    guessing = f"Guessing among {labels} labels gives a loss of {math.log(labels):.2f}, and training stays near that."
    higher, longer = _train(output, "--learning-rate", _rate(3, curve)), _train(output, "--epochs", 2 * last.number)
    advice = [f"Raise the learning rate: {higher}", f"Or train longer: {longer}"]
    title = "Underfitting: the model has learnt little"
    return Diagnosis("underfitting", title, best.number, [guessing, *_gap(last)], advice)


def _levelled_off(best: _Epoch, noise: float) -> Diagnosis:
    findings = [
        f"The validation loss has stopped falling, and has not risen by more than chance would make it ({noise:.0%}). "
        f"Step 3 keeps the weights of epoch {best.number}.",
        *_gap(best),
    ]
    advice = ["More epochs would bring nothing but overfitting; more or better samples would help."]
    return Diagnosis("levelled off", f"Levelled off: best at epoch {best.number}", best.number, findings, advice)
