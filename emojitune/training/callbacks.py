"""What is written and shown while a run trains, and what stops it."""

import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, Trainer, TrainerCallback

# The trainer's names for what it logs, and those of loss_history.jsonl.
_HISTORY_NAMES = {
    "loss": "training_loss",
    "answer_loss": "training_answer_loss",
    "learning_rate": "learning_rate",
    "grad_norm": "gradient_norm",
    "eval_loss": "validation_loss",
    "eval_answer_loss": "validation_answer_loss",
    "eval_exact_accuracy": "validation_exact_accuracy",
}

TIMED_STEPS = 5  # after so many, the length of the run is estimated

# A uniform guess over Gemma's 262,144 tokens has a loss of ln(262,144) = 12.5; the base model, which was never taught
# to end a turn, starts at about 24. Above this the weights are beyond repair.
DIVERGED_LOSS = 50.0


class LossHistory(TrainerCallback):
    """Append what the trainer logs to a JSONL file, flushed each time, so that a killed run can still be plotted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args, state, control, logs=None, **_):
        if not logs.keys() & {"loss", "eval_loss"}:
            return  # the trainer's summary at the end
        values = {ours: logs[theirs] for theirs, ours in _HISTORY_NAMES.items() if theirs in logs}
        # JSON has no NaN; null marks a loss that is not finite.
        values = {name: value if math.isfinite(value) else None for name, value in values.items()}
        row = {"step": state.global_step, "epoch": round(state.epoch or 0.0, 4), **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


class ProgressBar(ProgressCallback):
    """A bar for training, one for each evaluation, and after a few steps an estimate of the whole run."""

    def on_train_begin(self, args, state, control, **_):
        # The training bar starts with the first step: an evaluation before it would spoil its estimate.
        self.current_step = self.first_step = state.global_step
        self.evaluation_seconds = 0.0
        self.shown = {}

    def on_step_begin(self, args, state, control, **_):
        if self.training_bar is None:
            self.training_bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc="training", unit="step", dynamic_ncols=True
            )
            self.training_start = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        super().on_step_end(args, state, control)
        if state.global_step - self.first_step == TIMED_STEPS:
            step = (time.perf_counter() - self.training_start) / TIMED_STEPS
            evaluations = math.ceil(args.num_train_epochs - (state.epoch or 0))
            total = step * (state.max_steps - self.first_step) + evaluations * self.evaluation_seconds
            self.training_bar.write(f"About {total / 60:.0f} minutes on this machine, at {step:.1f} s per step")

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **_):
        if self.prediction_bar is None:
            self.prediction_bar = tqdm(
                total=len(eval_dataloader), desc="evaluating", unit="batch", leave=False, dynamic_ncols=True
            )
        self.prediction_bar.update(1)

    def on_evaluate(self, args, state, control, **_):
        super().on_evaluate(args, state, control)
        if self.training_bar is not None:
            self.training_bar.last_print_t = time.time()  # the pause is not part of a step's time

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in logs:
            self.shown["loss"] = f"{logs['loss']:.3f}"
        if "eval_answer_loss" in logs:
            self.evaluation_seconds = logs["eval_runtime"]
            self.shown["validation"] = f"{logs['eval_answer_loss']:.3f}"
            tqdm.write(
                f"epoch {state.epoch or 0:.0f}: validation loss {logs['eval_loss']:.3f}, answer loss "
                f"{logs['eval_answer_loss']:.3f}, exact accuracy {logs['eval_exact_accuracy']:.1%}"
            )
        if self.training_bar is not None:
            self.training_bar.set_postfix(self.shown)

    def on_train_end(self, args, state, control, **_):
        for bar in (self.prediction_bar, self.training_bar):
            if bar is not None:
                bar.close()
        self.training_bar = self.prediction_bar = None


class StopOnDivergence(TrainerCallback):
    """Stop when the loss is not finite any more, or has exploded: later epochs cannot recover."""

    def __init__(self) -> None:
        self.diverged = False

    def on_log(self, args, state, control, logs=None, **_):
        losses = [logs[name] for name in ("loss", "eval_loss") if name in logs]
        if any(not math.isfinite(loss) or loss > DIVERGED_LOSS for loss in losses):
            self.diverged = True
            control.should_training_stop = True

    def on_epoch_end(self, args, state, control, **_):
        if self.diverged:
            control.should_evaluate = control.should_save = False


class StopOnSignal(TrainerCallback):
    """Let the first Ctrl+C or SIGTERM end the run after the current step, with a checkpoint; the second ends it now."""

    def __init__(self) -> None:
        self.requested = False
        self.exit_status = 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals within the block."""
        previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if self.requested:
            raise KeyboardInterrupt("SIGTERM") if number == signal.SIGTERM else KeyboardInterrupt
        self.requested = True
        self.exit_status = 128 + number
        tqdm.write("Stopping after this step with a checkpoint; press Ctrl+C again to stop at once without one")

    def on_step_end(self, args, state, control, **_):
        if self.requested:
            control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args, state, control, **_):
        # In mid-epoch, an evaluation would keep the user waiting and would not be the epoch's.
        if self.requested and (state.epoch or 0) % 1:
            control.should_evaluate = control.should_save = False


def add_callbacks(trainer: Trainer, loss_history: Path, patience: int | None) -> tuple[StopOnSignal, StopOnDivergence]:
    """Give the trainer our callbacks; the two that it returns tell why a run ended."""
    stop, divergence = StopOnSignal(), StopOnDivergence()
    trainer.remove_callback(PrinterCallback)
    callbacks = [divergence, stop]
    if trainer.is_world_process_zero():
        callbacks += [ProgressBar(), LossHistory(loss_history)]
    if patience:
        callbacks.append(EarlyStoppingCallback(patience))
    for callback in callbacks:
        trainer.add_callback(callback)
    return stop, divergence
