"""The files of an output directory: their paths, how they are written, and how a stale step is noticed."""

import contextlib
import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

# What a killed run leaves is known by these names; an output directory may hold other people's files.
TEMPORARY, RETIRED = ".emojitune-tmp-", ".emojitune-old-"


class UserError(Exception):
    """An error the user can fix. Its text is one sentence: what, where, and what to do."""


class OutputDirectory:
    """The files of one experiment, each step's in a folder numbered as the script that writes it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dataset = root / "01_data/dataset.jsonl"
        self.report = root / "01_data/report.json"
        self.labels_plot = root / "01_data/labels.png"
        self.train = root / "02_split/train.jsonl"
        self.validation = root / "02_split/validation.jsonl"
        self.split = root / "02_split/split.json"
        self.model = root / "03_model"
        self.training = root / "03_training"
        self.adapter = root / "03_training/adapter"
        self.checkpoints = root / "03_training/checkpoints"
        self.loss_history = root / "03_training/loss_history.jsonl"
        self.settings = root / "03_training/settings.json"  # what --resume goes on with
        self.run = root / "03_training/run.json"
        self.loss_plot = root / "04_loss/loss.png"
        self.diagnosis = root / "04_loss/diagnosis.json"
        self.evaluation = root / "05_evaluation"
        # Each names the hashes of the data that its step read (`inputs`) and wrote (`outputs`).
        self.manifests = {
            "01_prepare_data.py": self.report,
            "02_split_data.py": self.split,
            "03_train_model.py": self.run,
        }


def rerun_command(script: str, output: OutputDirectory, *flags: str) -> str:
    """The command that runs `script` in this output directory, quoted so that it works when pasted."""
    where = [] if output.root == Path("outputs") else ["--output-dir", output.root.as_posix()]
    return shlex.join(["uv", "run", script, *flags, *where])


def system_flag(prompt: str) -> list[str]:
    """`--system` with its text, in one argument where argparse would take the text for a flag."""
    return [f"--system={prompt}"] if prompt.startswith("-") else ["--system", prompt]


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; flush it and rename it over `path` when the block ends without an error.

    A reader sees the old file or the new one, never half a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # suffix last: libraries choose the format by it
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        yield temporary
        with temporary.open("r+b") as file:  # Windows flushes through writable handles only
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")  # a name may be no text


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


@contextlib.contextmanager
def atomic_write_dir(path: Path) -> Iterator[Path]:
    """Like `atomic_write`, for a folder: what was at `path` goes only once the new folder is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    retired = path.with_name(f"{RETIRED}{path.name}")
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            path.replace(retired)
        temporary.replace(path)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_stale_temp_files(folder: Path) -> None:
    """Delete what a killed run left in `folder`; call it under the lock.

    A folder that was retired before its successor took its name comes back: it is the last complete one.
    """
    for retired in folder.glob(f"{RETIRED}*"):
        current = retired.with_name(retired.name.removeprefix(RETIRED))
        shutil.rmtree(retired) if current.exists() else retired.replace(current)
    for stale in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)


def read_json(path: Path, script: str, output: OutputDirectory) -> Any:
    """Read an artifact. Its objects are dicts that raise a UserError, not a KeyError, for a key that they lack.

    Raises:
        UserError: if it is missing or broken; the sentence names the command that writes it.
    """

    class Record(dict):
        def __missing__(self, key: str) -> None:
            again = f"run again, with the flags that it had: {rerun_command(script, output)}"
            raise UserError(f"{path} has no {key!r}, so another version of {script} wrote it; {again}")

    with _reading(path, script, output):
        # `int` has a ValueError for NaN and Infinity, which Python would accept
        return json.loads(path.read_bytes(), parse_constant=int, object_hook=Record)


def read_jsonl(path: Path, script: str, output: OutputDirectory, allow_truncated_last_line: bool = False) -> list[Any]:
    """Read an artifact of one JSON value per line; raises as `read_json` does."""
    with _reading(path, script, output):
        *lines, last = path.read_bytes().split(b"\n")  # in a complete file, nothing follows the last newline
        lines = lines if allow_truncated_last_line else [*lines, last]
        return [json.loads(line, parse_constant=int) for line in lines if line.strip()]


@contextlib.contextmanager
def _reading(path: Path, script: str, output: OutputDirectory) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing; write it with: {rerun_command(script, output)}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not complete JSON; write it again with: {rerun_command(script, output)}") from None


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(output: OutputDirectory, paths: Iterable[Path]) -> dict[str, str]:
    """The SHA-256 of each file, by its path inside the output directory."""
    return {path.relative_to(output.root).as_posix(): sha256_of(path) for path in paths}


def load_verified_manifest(script: str, output: OutputDirectory, inputs: bool = True) -> dict[str, Any]:
    """The manifest that `script` wrote, once every file that it names is found unchanged.

    `inputs=False` leaves out what the step read: chatting with a model does not need the data that it came from.

    Raises:
        UserError: if the manifest is missing or broken, if an output is not what the step wrote, or if an input has
            changed since (the step is stale). The sentence names the file and the command.
    """
    path = output.manifests[script]
    manifest = read_json(path, script, output)
    again = f"run again, with the flags that it had: {rerun_command(script, output)}"
    complaints = {"outputs": f"is not the file that {script} wrote"}
    if inputs:
        complaints["inputs"] = f"has changed since {script} read it"
    try:
        for kind, complaint in complaints.items():
            for name, sha256 in manifest[kind].items():
                file = output.root / name
                if not file.is_file() or sha256_of(file) != sha256:
                    raise UserError(f"{file} {complaint}; {again}")
    except (TypeError, AttributeError):
        raise UserError(f"{path} was not written by this version of {script}; {again}") from None
    return manifest


@contextlib.contextmanager
def lock_output_dir(output: OutputDirectory, script: str) -> Iterator[None]:
    """Hold the output directory for one script; of several ranks, rank 0 holds it for all.

    The operating system drops the lock with a killed process; what that process left half written is removed here.

    Raises:
        UserError: if another run holds it, with the name and process id of that run.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    output.root.mkdir(parents=True, exist_ok=True)
    holder = output.root / ".lock-holder"
    lock = FileLock(output.root / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = "another run"
        with contextlib.suppress(FileNotFoundError):
            who = holder.read_text(encoding="utf-8")
        raise UserError(f"{who} is working in {output.root}; wait for it, or choose another --output-dir") from None
    try:
        for folder in (output.root, *output.root.glob("0*/")):
            remove_stale_temp_files(folder)
        write_text(holder, f"{script} (process {os.getpid()})")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
