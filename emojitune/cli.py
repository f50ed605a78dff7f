"""What the command lines of all scripts share: argument types, and errors as one sentence with an exit status."""

import argparse
import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from emojitune.artifacts import OutputDirectory, UserError


def bounded(kind: type, low: float, high: float, exclusive_low: bool = False) -> Callable[[str], float]:
    """An argparse type: a number of `kind` between `low` and `high`."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            what = "a whole" if kind is int else "a"
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not {what} number") from None
        if not low <= value <= high or (exclusive_low and value == low):  # NaN fails every comparison
            bounds = f"{'above' if exclusive_low else 'at least'} {low} and at most {high}"
            raise argparse.ArgumentTypeError(f"{text[:40]} is out of bounds; it must be {bounds}")
        return value

    return parse


def model_name(text: str) -> str:
    """An argparse type: `embedded`, a hub id or a folder."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError("it needs a name")
    return text


def output_directory(text: str) -> OutputDirectory:
    """An argparse type: the folder of one experiment."""
    return OutputDirectory(Path(model_name(text)))


def add_output_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output-dir",
        type=output_directory,
        default=OutputDirectory(Path("outputs")),
        metavar="DIR",
        help="the folder of this experiment; every step reads and writes there (default: outputs)",
    )


def add_device(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="where the model runs (default: auto, a GPU when there is one)",
    )


def print0(*values: object) -> None:
    """Print on rank 0 only: several processes run the same script."""
    if os.environ.get("RANK", "0") == "0":
        print(*values, flush=True)


def run_main(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> int:
    """Run a script's `main`; an error the user can fix becomes one sentence on standard error, and status 2.

    130 after Ctrl+C, 143 after SIGTERM, 141 after a broken pipe, as shells expect. EMOJITUNE_TRACEBACK=1 shows the
    traceback as well.
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):  # Windows consoles and LANG=C are not UTF-8; emojis are
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(encoding="utf-8", errors="replace")
    signal.signal(signal.SIGTERM, _interrupt)
    sys.unraisablehook = _interrupt_later
    try:
        status = main(argv) or 0
        sys.stdout.flush()  # here, so that a reader who is gone is noticed
        return status
    except BrokenPipeError:  # the reader of our output is gone (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (Exception, KeyboardInterrupt) as error:
        interrupt = error
        while interrupt and not isinstance(interrupt, KeyboardInterrupt):
            interrupt = interrupt.__context__  # a library's clean-up may have turned it into an error of its own
        if interrupt:
            print(file=sys.stderr)
            return 143 if interrupt.args == ("SIGTERM",) else 130
        message = _user_message_for(error)
        if not message:
            raise
        if os.environ.get("EMOJITUNE_TRACEBACK") == "1":
            traceback.print_exception(error)
        print(f"error: {message}", file=sys.stderr)
        return 2


def _interrupt(signum: int, frame: object) -> None:
    """Let SIGTERM unwind like Ctrl+C, so that temporary files are removed and training can save its checkpoint."""
    raise KeyboardInterrupt("SIGTERM")


def _interrupt_later(unraisable: Any) -> None:
    """Send a signal again that came where nothing can be raised, such as a weak reference's callback: Python would
    print its traceback and go on."""
    if not isinstance(error := unraisable.exc_value, KeyboardInterrupt):
        return sys.__unraisablehook__(unraisable)
    number = signal.SIGTERM if error.args == ("SIGTERM",) else signal.SIGINT
    send, arguments = signal.raise_signal, [number]
    if hasattr(signal, "pthread_kill"):  # not on Windows; it wakes the main thread, which may be waiting
        send, arguments = signal.pthread_kill, [threading.main_thread().ident, number]
    threading.Timer(0.01, send, arguments).start()


def _user_message_for(error: Exception) -> str | None:
    """The sentence for an error the user can fix, or None for a bug of ours."""
    if isinstance(error, UserError):
        return str(error)
    text = str(error)
    # Native libraries report a full disk or exhausted memory with their own exception types.
    no_memory = ("out of memory", "can't allocate memory", "ALLOC_FAILED", "Invalid buffer size")
    if isinstance(error, MemoryError) or any(words in text for words in no_memory):
        return (
            "out of memory; try a smaller --batch-size with --gradient-accumulation, --gradient-checkpointing in "
            "training, or --device cpu if it was a GPU"
        )
    if type(error).__name__ in ("TemplateError", "TemplateSyntaxError"):  # of jinja2, which few scripts import
        return f"the model's chat template does not take these messages ({text}); mend it, or choose another model"
    if "index out of range in self" in text:  # an embedding was looked up that is not there
        return "the tokenizer has tokens that its model does not know; get both from one source"
    full_disk = ("No space left", "File too large", "quota exceeded", "failed writing", "unexpected pos")
    if not isinstance(error, OSError) and any(words in text for words in full_disk):
        error = OSError(errno.ENOSPC, "")
    if not isinstance(error, OSError):
        return None
    where = f" ({error.filename2 or error.filename})" if error.filename else ""  # a rename has two names
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return (
                f"the disk is full{where}; make room, then run the same command again (step 3 after an epoch: --resume)"
            )
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"no permission to read or write{where}; change it or choose another --output-dir"
        case errno.ENOTDIR | errno.EEXIST | errno.EISDIR:
            return f"there is a file for a folder, or a folder for a file{where}; choose another --output-dir"
    return f"{error.strerror or error}{where}; fix it and run the same command again"
