"""Going on with a run that was interrupted, and making room for a new one."""

import json
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from emojitune.artifacts import OutputDirectory, UserError, read_json, read_jsonl, write_json, write_jsonl


def prepare_folder(output: OutputDirectory, checkpoint: Path | None, started: dict[str, Any]) -> None:
    """Make `03_training/` ready: without a checkpoint, remove an earlier run's traces and write what this one starts
    from; with one, drop the losses that were logged after it."""
    output.training.mkdir(parents=True, exist_ok=True)
    output.run.unlink(missing_ok=True)  # first: a folder in between is not a finished run
    if checkpoint is None:
        output.loss_history.unlink(missing_ok=True)
        shutil.rmtree(output.checkpoints, ignore_errors=True)
        shutil.rmtree(output.adapter, ignore_errors=True)
        write_json(output.training / "started.json", started)
        return
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    rows = read_jsonl(output.loss_history, "03_train_model.py", output, torn_end=True)
    write_jsonl(output.loss_history, [row for row in rows if row["step"] <= step])


def last_checkpoint(output: OutputDirectory, again: str) -> Path:
    """The latest whole checkpoint. Raises UserError when there is none."""
    found = [
        folder
        for folder in output.checkpoints.glob("checkpoint-*")
        if folder.name.removeprefix("checkpoint-").isdecimal() and _is_whole(folder)
    ]
    if not found:
        raise UserError(
            f"{output.checkpoints} holds no checkpoint to resume from, or none that is whole; "
            f"start the run with: {again}"
        )
    return max(found, key=lambda folder: int(folder.name.removeprefix("checkpoint-")))


def _is_whole(folder: Path) -> bool:
    """Whether all of a checkpoint can be read. `weights_only` runs no code, whatever the files hold."""
    import torch
    from safetensors import SafetensorError, safe_open
    from transformers.trainer_pt_utils import safe_globals

    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        for path in folder.glob("*.safetensors"):
            with safe_open(path, "pt"):
                pass
        with safe_globals():
            for path in [*folder.glob("*.pt"), *folder.glob("*.pth")]:
                torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, EOFError, SafetensorError, UnpicklingError):
        return False
    return True


def resumed_settings(
    output: OutputDirectory, settings: dict[str, Any], defaults: dict[str, Any], inputs: dict[str, str], again: str
) -> dict[str, Any]:
    """The settings that the interrupted run started with.

    Raises UserError when there is none, when its inputs have changed, or when a flag now says something else.
    """
    started = read_json(output.training / "started.json", "03_train_model.py", output)
    try:
        recorded, recorded_inputs = dict(started["settings"]), started["inputs"]
    except (TypeError, KeyError):
        raise UserError(f"{output.training / 'started.json'} is of another version; start anew with: {again}") from None
    if recorded_inputs != inputs:
        raise UserError(
            f"{output.split.parent} has changed since the run in {output.training} started; start anew with: {again}"
        )
    for name, value in settings.items():
        if value != defaults[name] and value != recorded.get(name):
            flag = "--" + name.replace("_", "-")
            raise UserError(
                f"{flag} {value} is not what the interrupted run had ({recorded.get(name)}); leave it out to resume"
            )
    return {name: recorded.get(name, value) for name, value in settings.items()}
