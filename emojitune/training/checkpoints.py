"""Resuming an interrupted run, and making room for a new one."""

import json
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.trainer_pt_utils import safe_globals

from emojitune.artifacts import (
    OutputDirectory,
    UserError,
    read_json,
    read_jsonl,
    rerun_command,
    write_json,
    write_jsonl,
)

SCRIPT = "03_train_model.py"


def prepare_run_folder(output: OutputDirectory, checkpoint: Path | None, started: dict[str, Any]) -> None:
    """Make `03_training/` ready: for a new run, remove the traces of an earlier one and write `started` to
    `settings.json`, which --resume reads; for a resumed one, drop the losses that were logged after the checkpoint.
    Raises UserError if the run to resume had another base model or number of processes."""
    if checkpoint:
        before = read_json(output.settings, SCRIPT, output)
        for key, what in (("base_model", started["base_model"]["name"]), ("processes", "the number of processes")):
            if before[key] != started[key]:  # other processes: other steps per epoch
                raise _changed(what, output)
    output.run.unlink(missing_ok=True)  # first: a folder in between is not a finished run
    if checkpoint is None:
        shutil.rmtree(output.training, ignore_errors=True)
        write_json(output.settings, started)
        return
    rows = read_jsonl(output.loss_history, SCRIPT, output, allow_truncated_last_line=True)
    write_jsonl(output.loss_history, [row for row in rows if row["step"] <= step_of(checkpoint)])


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which the trainer wrote `checkpoint-<step>`."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def last_complete_checkpoint(output: OutputDirectory) -> Path:
    """The latest checkpoint that can be read whole: the trainer's checkpoints are not atomic.

    Raises:
        UserError: if there is none.
    """
    for folder in sorted(output.checkpoints.glob("checkpoint-*"), key=step_of, reverse=True):
        if _is_complete(folder):
            return folder
    if output.run.exists():
        raise UserError(
            f"the run in {output.training} is finished; for more epochs train anew with a larger --epochs, or start a "
            f"second round from its weights, in another --output-dir, with --model {output.model}"
        )
    raise UserError(
        f"{output.checkpoints} holds no complete checkpoint to resume from; start the run with: "
        f"{rerun_command(SCRIPT, output)}"
    )


def _is_complete(folder: Path) -> bool:
    """Whether all of a checkpoint can be read. `weights_only` runs no code, whatever the files hold."""
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        for path in folder.glob("*.safetensors"):
            safe_open(path, "pt")
        with safe_globals():
            for path in folder.glob("*.pt*"):  # .pt and .pth
                torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, EOFError, SafetensorError, UnpicklingError):
        return False
    return True


def settings_of_interrupted_run(output: OutputDirectory, inputs: dict[str, str]) -> dict[str, Any]:
    """The settings that the interrupted run started with.

    Raises:
        UserError: if there is no such run, or if the split has changed since.
    """
    started = read_json(output.settings, SCRIPT, output)
    if not isinstance(started, dict) or started.get("inputs") != inputs:
        raise _changed(output.split.parent, output)
    return started["settings"]


def _changed(what: object, output: OutputDirectory) -> UserError:
    return UserError(
        f"{what} has changed since the run in {output.training} started, or another version of {SCRIPT} started it; "
        f"start anew with: {rerun_command(SCRIPT, output)}"
    )
