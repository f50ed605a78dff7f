"""Scripts run in processes forked from a server that has imported everything and loaded what never changes.

In the forked process the signals, limits and hooks of a test hurt nobody else.
"""

import gc
import multiprocessing
import os
import re
import resource
import signal
import socket
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from conftest import ROOT, run_script
from matplotlib.figure import Figure

from emojitune.artifacts import sha256_of

# What the forked process says first: from here on a signal hits the script, before it would hit this harness.
READY = b"\0"

WRITING = ("os.rename", "os.mkdir", "os.remove", "os.rmdir")

# Python 3.11's fork server looks for what it preloads along this path only, and says nothing when it is not there.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["helpers.preload"])


def _refuse(*_: object) -> None:
    print("the network was tried")  # a library may go on all the same
    raise OSError("no network in this test")


def _save_no_picture(self: Figure, target: object, **_: object) -> None:
    """Only that a picture is written matters."""
    target.write(b"a picture") if hasattr(target, "write") else Path(target).write_bytes(b"a picture")


def _run(script: str, argv: list[str], said: Connection, stop_at: int, signum: int, setting: dict) -> None:
    """In the forked process: the script, its output into `said`; at the `stop_at`-th write, the signal."""
    assert "helpers.preload" in sys.modules
    gc.freeze()  # what the server imported is no garbage: looking through it takes a third of a second each time
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(said.fileno(), descriptor)
        setattr(sys, name, os.fdopen(descriptor, "w", buffering=1, encoding="utf-8", closefd=False))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(setting.get("environment", {}))
    Figure.savefig = _save_no_picture
    if "file_bytes" in setting:  # what a full disk does to a write, on a machine that has room
        resource.setrlimit(resource.RLIMIT_FSIZE, (setting["file_bytes"], resource.RLIM_INFINITY))
    if setting.get("no_network"):
        socket.socket.connect = socket.socket.connect_ex = _refuse
        socket.getaddrinfo = _refuse
    root = os.path.realpath(argv[argv.index("--output-dir") + 1])
    places: list[str] = []

    def watch(event: str, arguments: tuple) -> None:
        writes = event in WRITING or (event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE)
        if writes and str(arguments[0]).startswith(root):
            places.append(event)
            if len(places) == stop_at:
                os.kill(os.getpid(), signum)

    sys.addaudithook(watch)
    try:
        os.write(said.fileno(), READY)
        status = run_script(script, *argv)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # from here on it would hit this harness, not the script
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except KeyboardInterrupt as interrupt:  # between the script's last line and the two above
        status = 143 if interrupt.args == ("SIGTERM",) else 130
    sys.stderr.flush()
    print(f"writes: {len(places)}", flush=True)
    os._exit(status)


class Runner:
    """Runs one script with these arguments, `--output-dir` among them, and keeps what it `said`."""

    def __init__(self, script: str, argv: list[object]) -> None:
        self.script, self.argv, self.said = script, [str(argument) for argument in argv], ""

    def run(self, stop_at: int = 0, after: float | None = None, signum: int = signal.SIGKILL, **setting: object) -> int:
        """The exit status (minus the signal, when that ended it).

        `stop_at` sends the signal at that write (from 1), `after` at that many seconds from the script's beginning;
        what a `setting` does is said in `_run`.
        """
        reader, writer = SERVER.Pipe(duplex=False)  # no file: a full disk must not swallow what is said
        arguments = (self.script, self.argv, writer, stop_at, int(signum), setting)
        self.process = SERVER.Process(target=_run, args=arguments)
        self.process.start()
        writer.close()
        assert os.read(reader.fileno(), 1) == READY
        stop = threading.Timer(600 if after is None else after, os.kill, (self.process.pid, signum))  # 600: it hangs
        stop.start()
        self.said = b"".join(iter(lambda: os.read(reader.fileno(), 65536), b"")).decode("utf-8", errors="replace")
        stop.cancel()
        self.process.join()
        return self.process.exitcode

    @property
    def writes(self) -> int:
        """How many writes the last run made, which nothing stopped."""
        return int(self.said.rsplit("writes: ", 1)[1])


VOLATILE = re.compile(r'"(seconds|peak_memory_bytes)": [\d.e+]+')


def artifacts(output: Path) -> dict[str, str]:
    """Every file with the hash of its content; durations and the like are left out of JSON and text."""
    hashes = {}
    for path in sorted(output.rglob("*")):
        if path.is_file() and path.name != ".lock":
            text = path.suffix in (".json", ".html", ".md")
            content = VOLATILE.sub("", path.read_text(encoding="utf-8")) if text else sha256_of(path)
            content = re.sub(rf"{output.parent.name}/out(-\d)?", "OUT", content)  # commands name the folder
            hashes[path.relative_to(output).as_posix()] = content
    return hashes
