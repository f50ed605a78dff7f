"""What is written and shown while a run trains, and what stops it."""

import json
import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from emojitune.stats import is_diverged

# The trainer's names for what it logs, and those of loss_history.jsonl.
HISTORY_NAMES = {
    "loss": "training_loss",
    "answer_loss": "training_answer_loss",
    "learning_rate": "learning_rate",
    "grad_norm": "gradient_norm",
    "eval_loss": "validation_loss",
    "eval_answer_loss": "validation_answer_loss",
    "eval_exact_accuracy": "validation_exact_accuracy",
}

TIMED_STEPS = 10  # after so many, the length of the run is estimated


class LossHistory(TrainerCallback):
    """Append what the trainer logs to a JSONL file, flushed each time, so that a killed run can still be plotted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args, state, control, logs=None, **_):
        if not logs.keys() & {"loss", "eval_loss"}:
            return  # the trainer's summary at the end
        row = {"step": state.global_step, "epoch": round(state.epoch, 4)}
        for theirs, ours in HISTORY_NAMES.items():
            if theirs in logs:
                row[ours] = logs[theirs] if math.isfinite(logs[theirs]) else None  # JSON has no NaN
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


class ProgressBar(ProgressCallback):
    """A bar for training with the latest losses, a line for each evaluation, and soon an estimate of the whole run."""

    def __init__(self, validation_samples: int) -> None:
        super().__init__()
        self.validation_samples = validation_samples

    def on_train_begin(self, args, state, control, **_):
        self.current_step = self.first_step = state.global_step
        self.training_bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc="training", unit="step", dynamic_ncols=True
        )
        self.shown = {}
        self.evaluated_per_second = math.inf  # unknown when a run is resumed

    def on_step_end(self, args, state, control, **_):
        super().on_step_end(args, state, control)
        if state.global_step - self.first_step == TIMED_STEPS and self.training_bar.format_dict["rate"]:
            step = 1 / self.training_bar.format_dict["rate"]
            evaluations = (args.num_train_epochs - state.epoch) * self.validation_samples / self.evaluated_per_second
            minutes = (step * (state.max_steps - state.global_step) + evaluations) / 60
            self.training_bar.write(f"About {minutes:.0f} minutes on this machine, at {step:.1f} s per step")

    def on_evaluate(self, args, state, control, **_):
        super().on_evaluate(args, state, control)
        self.training_bar.unpause()  # an evaluation is not part of a step's time

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in logs:
            self.shown["loss"] = f"{logs['loss']:.3f}"
        if "eval_answer_loss" in logs:
            self.evaluated_per_second = logs["eval_samples_per_second"]
            self.shown["validation"] = f"{logs['eval_answer_loss']:.3f}"
            self.training_bar.write(
                f"epoch {state.epoch:.0f}: validation loss {logs['eval_loss']:.3f}, answer loss "
                f"{logs['eval_answer_loss']:.3f}, exact accuracy {logs['eval_exact_accuracy']:.1%}"
            )
        self.training_bar.set_postfix(self.shown)


class StopEarly(TrainerCallback):
    """End a run when its loss is not finite or has exploded, or at the first Ctrl+C or SIGTERM.

    Later epochs cannot recover from the former. A signal ends it after the current step, with a checkpoint; the second
    signal ends it now.
    """

    def __init__(self) -> None:
        self.diverged = False
        self.signal = 0

    @property
    def ended(self) -> str:
        """How the run ended, for run.json."""
        return "diverged" if self.diverged else "interrupted" if self.signal else "finished"

    @property
    def exit_status(self) -> int:
        return 128 + self.signal if self.signal else 0

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Handle the signals within the block."""
        previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if self.signal:
            raise KeyboardInterrupt("SIGTERM") if number == signal.SIGTERM else KeyboardInterrupt
        self.signal = number
        tqdm.write("Stopping with a checkpoint after this step or evaluation; press Ctrl+C again to stop without one")

    def on_log(self, args, state, control, logs=None, **_):
        if any(is_diverged(logs[name]) for name in ("loss", "eval_loss") if name in logs):
            self.diverged = control.should_training_stop = True
            control.should_save = False  # nothing to resume from

    def on_step_end(self, args, state, control, **_):
        if args.world_size > 1:  # a signal reaches each rank at another step; all must stop after the same one
            number = torch.tensor(self.signal, device=args.device)
            torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX)
            self.signal = int(number)
        if self.signal:
            control.should_training_stop = True
            control.should_save = bool(state.epoch % 1)  # an epoch's own checkpoint comes after its evaluation

    def on_train_end(self, args, state, control, **_):
        if state.global_step == state.max_steps:  # it came during the last evaluation: nothing is left to resume
            self.signal = 0

    def on_epoch_end(self, args, state, control, **_):
        # In mid-epoch, an evaluation would keep the user waiting and would not be the epoch's.
        if self.diverged or (control.should_training_stop and state.epoch % 1):
            control.should_evaluate = control.should_save = False


class Patience(EarlyStoppingCallback):
    """Early stopping; a run that is resumed with no patience left stops again."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        control.should_training_stop = self.early_stopping_patience_counter >= self.early_stopping_patience


def add_callbacks(trainer: Trainer, loss_history: Path, patience: int | None) -> StopEarly:
    """Give the trainer our callbacks; the one that it returns tells why a run ended."""
    trainer.remove_callback(PrinterCallback)
    stop = StopEarly()
    trainer.add_callback(stop)
    if trainer.is_world_process_zero():
        trainer.add_callback(ProgressBar(len(trainer.eval_dataset)))
        trainer.add_callback(LossHistory(loss_history))
    if patience:
        trainer.add_callback(Patience(patience))
    return stop
