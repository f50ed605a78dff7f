"""Where every step's files are, how they are written whole or not at all, and how a stale one is noticed."""

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Which script writes the record of a step; the record names what the step read (`inputs`) and wrote (`outputs`).
RECORDS = {
    "01_prepare_data.py": "01_data/report.json",
    "02_split_data.py": "02_split/split.json",
    "03_train_model.py": "03_training/run.json",
}


class UserError(Exception):
    """Something that the user can mend. Its text is one sentence: what, where, and what to do."""


@dataclass(frozen=True)
class OutputDirectory:
    """The files of one experiment, each step's in a folder numbered as the script that writes it."""

    root: Path

    @property
    def dataset(self) -> Path:
        return self.root / "01_data/dataset.jsonl"

    @property
    def report(self) -> Path:
        return self.root / "01_data/report.json"

    @property
    def labels_picture(self) -> Path:
        return self.root / "01_data/labels.png"

    @property
    def train(self) -> Path:
        return self.root / "02_split/train.jsonl"

    @property
    def validation(self) -> Path:
        return self.root / "02_split/validation.jsonl"

    @property
    def split(self) -> Path:
        return self.root / "02_split/split.json"

    @property
    def model(self) -> Path:
        return self.root / "03_model"

    @property
    def training(self) -> Path:
        return self.root / "03_training"

    @property
    def adapter(self) -> Path:
        return self.training / "adapter"

    @property
    def checkpoints(self) -> Path:
        return self.training / "checkpoints"

    @property
    def loss_history(self) -> Path:
        return self.training / "loss_history.jsonl"

    @property
    def run(self) -> Path:
        return self.training / "run.json"

    @property
    def loss_picture(self) -> Path:
        return self.root / "04_loss/loss.png"

    @property
    def diagnosis(self) -> Path:
        return self.root / "04_loss/diagnosis.json"

    @property
    def evaluation(self) -> Path:
        return self.root / "05_evaluation"


def command(script: str, output: OutputDirectory) -> str:
    """The command that runs `script` in this output directory, as the user would type it."""
    where = "" if output.root == Path("outputs") else f" --output-dir {output.root}"
    return f"uv run {script}{where}"


# ---- writing -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; flush and rename it over `path` when the block ends well.

    A reader sees the old file or the new one, never half a file. The temporary one goes when the block fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: libraries choose the format by it.
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Like `replacing`, for a folder: what was at `path` goes only once the new folder is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    temporary.mkdir()
    try:
        yield temporary
        retired = path.with_name(f".tmp-{os.getpid()}-old-{path.name}")
        if path.exists():
            path.replace(retired)
        temporary.replace(path)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files and folders that a killed run left in `folder`; call it under the lock."""
    for leftover in folder.glob(".tmp-*") if folder.is_dir() else ():
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


# ---- reading -------------------------------------------------------------------------------------------------------


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def read_json(path: Path, script: str, output: OutputDirectory) -> Any:
    """Read an artifact. Raises UserError, naming the command that writes it, when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing; write it with: {command(script, output)}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not whole JSON; write it again with: {command(script, output)}") from None


def read_jsonl(path: Path, script: str, output: OutputDirectory, torn_end: bool = False) -> list[Any]:
    """Read an artifact of one JSON value a line; `torn_end` drops a last line that a kill left unfinished.

    Raises UserError, naming the command that writes it, when it is missing or broken.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing; write it with: {command(script, output)}") from None
    torn = lines.pop()  # what follows the last newline: nothing, in a whole file
    if torn and not torn_end:
        lines.append(torn)
    try:
        return [json.loads(line) for line in lines if line.strip()]
    except (ValueError, RecursionError):
        raise UserError(f"{path} has a broken line; write it again with: {command(script, output)}") from None


# ---- provenance ----------------------------------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> dict[str, Any]:
    """The hash of a file, and its size (bytes) and time (seconds): a cheap look before hashing again."""
    status = path.stat()
    return {"sha256": sha256_of(path), "bytes": status.st_size, "modified": status.st_mtime}


def same_file(path: Path, recorded: dict[str, Any], verify: bool = False) -> bool:
    """Whether `path` is still the file of that fingerprint. Hashes only when size and time leave a doubt, or always
    with `verify`; a copied folder has new times, so it is hashed and passes."""
    if not path.is_file() or path.stat().st_size != recorded["bytes"]:
        return False
    if not verify and path.stat().st_mtime == recorded["modified"]:
        return True
    return sha256_of(path) == recorded["sha256"]


def inputs_of(output: OutputDirectory, paths: Iterable[Path]) -> dict[str, str]:
    return {path.relative_to(output.root).as_posix(): sha256_of(path) for path in paths}


def outputs_of(output: OutputDirectory, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    return {path.relative_to(output.root).as_posix(): fingerprint(path) for path in paths}


def checked_record(script: str, output: OutputDirectory, verify: bool = False) -> dict[str, Any]:
    """The record that `script` wrote, once every file that it names is found unchanged.

    Raises UserError when the record is missing or broken, when a file that the step wrote is not what it wrote, or
    when a file that it read has changed since (the step is stale). The sentence names the file and the command.
    """
    path = output.root / RECORDS[script]
    record = read_json(path, script, output)
    again = f"run again: {command(script, output)}"
    try:
        inputs, outputs = dict(record["inputs"]), dict(record["outputs"])
        for name, recorded in outputs.items():
            file = _inside(output, name, path, again)
            if not same_file(file, recorded, verify):
                raise UserError(f"{file} is not the file that {script} wrote; {again}")
        for name, sha256 in inputs.items():
            file = _inside(output, name, path, again)
            if not file.is_file() or sha256_of(file) != sha256:
                raise UserError(f"{file} has changed since {script} read it; {again}")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path} was not written by this version of {script}; {again}") from None
    return record


def _inside(output: OutputDirectory, name: str, record: Path, again: str) -> Path:
    """The file of that relative name; refuses one that points out of the output directory."""
    path = output.root / name
    if not path.resolve().is_relative_to(output.root.resolve()):
        raise UserError(f"{record} names a file outside of {output.root}; {again}")
    return path


# ---- one run at a time ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(output: OutputDirectory, script: str) -> Iterator[None]:
    """Hold the output directory for one script. Raises UserError, with the holder's name and process id, when another
    run has it. The lock is the system's, so it goes with a killed process; what that left in the directory goes now."""
    from filelock import FileLock, Timeout

    output.root.mkdir(parents=True, exist_ok=True)
    holder = output.root / ".lock-holder.json"
    lock = FileLock(output.root / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with contextlib.suppress(OSError, ValueError, KeyError):
            other = json.loads(holder.read_text(encoding="utf-8"))
            raise UserError(
                f"{other['script']} (process {other['process']}) is working in {output.root}; "
                "wait for it, or choose another --output-dir"
            ) from None
        raise UserError(
            f"another run is working in {output.root}; wait for it, or choose another --output-dir"
        ) from None
    try:
        remove_leftovers(output.root)
        write_json(holder, {"script": script, "process": os.getpid(), "since": time.time()})
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
