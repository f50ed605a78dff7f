"""What the command lines of all scripts share: bounds for numbers, and errors as one sentence."""

import argparse
import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from emojitune.artifacts import OutputDirectory, UserError


def number(kind: type, low: float, high: float, exclusive_low: bool = False) -> Callable[[str], float]:
    """An argparse type: a number of `kind` between `low` and `high`."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except (ValueError, OverflowError):
            what = "a whole" if kind is int else "a"
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not {what} number") from None
        # A NaN is inside no bounds.
        if not ((low < value if exclusive_low else low <= value) and value <= high):
            bounds = f"{'above' if exclusive_low else 'at least'} {low:g} and at most {high:g}"
            raise argparse.ArgumentTypeError(f"{text[:40]} is out of bounds; it must be {bounds}")
        return value

    return parse


def output_directory(text: str) -> OutputDirectory:
    """An argparse type: the folder of one experiment."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError("it needs the name of a folder")
    return OutputDirectory(Path(text))


def model_name(text: str) -> str:
    """An argparse type: `embedded`, a hub id or a folder."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError("it needs embedded, a hub id or a folder")
    return text


def add_output_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output-dir",
        type=output_directory,
        default=OutputDirectory(Path("outputs")),
        metavar="DIR",
        help="the folder of this experiment; every step reads and writes there (default: outputs)",
    )


def exit_status(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> int:
    """Run a script's `main`; turn what the user can mend into one sentence on standard error, and status 2.

    130 after Ctrl+C and 143 after SIGTERM, as shells expect.
    """
    for stream in (sys.stdout, sys.stderr):  # Windows consoles and LANG=C are not UTF-8; emojis are
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(encoding="utf-8", errors="replace")
    _terminate_like_interrupt()
    try:
        return main(argv) or 0
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nothing to tell, nobody to tell it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        interrupt = _interrupt_behind(error)
        if interrupt:
            print(file=sys.stderr)
            return 143 if interrupt.args == ("SIGTERM",) else 130
        sentence = _sentence_about(error)
        if not sentence:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 2


def _interrupt_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interrupt that came, be it that a library failed at cleaning up after it and raised an error of its own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def _sentence_about(error: Exception) -> str | None:
    """What the user can mend, or None for a bug of ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return _about_the_machine(error)
    # Libraries in C++ and Rust have errors of their own for what befalls a machine.
    if isinstance(error, MemoryError) or _says(error, "out of memory", "can't allocate memory"):
        return (
            "the memory of this machine does not suffice; lower it with a smaller --batch-size, "
            "or with --gradient-checkpointing in training"
        )
    if _says(error, "No space left", "File too large", "quota exceeded", "failed writing", "unexpected pos"):
        return _about_the_machine(OSError(errno.ENOSPC, ""))
    return None


def _says(error: Exception, *texts: str) -> bool:
    return any(text in str(error) for text in texts)


def _about_the_machine(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return f"the disk is full{where}; make room or choose another --output-dir, then run the same command again"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"no permission to write or read there{where}; mend it or choose another --output-dir"
        case errno.ENOTDIR | errno.EEXIST | errno.EISDIR:
            return f"a file stands where a folder is needed, or the other way round{where}; choose another --output-dir"
    return f"{error.strerror or error}{where}; mend it, then run the same command again"


def _terminate_like_interrupt() -> None:
    """Let SIGTERM unwind like Ctrl+C, so that temporary files go and training can save its checkpoint."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt("SIGTERM")

    with contextlib.suppress(ValueError, OSError):  # not in the main thread: leave the signal alone
        signal.signal(signal.SIGTERM, interrupt)
