"""What ends a script, as a status and at most one sentence."""

import argparse
import errno
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from torch.nn import functional

from emojitune.artifacts import UserError
from emojitune.cli import bounded, run_main


def ends_with(error, behind=None):
    def main(argv):
        error.__context__ = behind
        raise error

    return run_main(main)


@pytest.mark.parametrize(("signal", "status"), [(KeyboardInterrupt(), 130), (KeyboardInterrupt("SIGTERM"), 143)])
def test_an_interrupt_is_one_even_when_a_library_fails_at_cleaning_up(signal, status, capsys):
    """datasets closes its writer on an interrupt and then writes to it: Ctrl+C while tokenizing gave a traceback."""
    assert ends_with(signal) == status
    for error in (ValueError("I/O operation on closed file"), OSError("closed"), UserError("no")):
        assert ends_with(error, behind=signal) == status
    assert capsys.readouterr().err.strip() == ""


def test_a_signal_where_nothing_can_be_raised_comes_again():
    """Python prints what a weak reference's callback raises and goes on: a SIGTERM was lost while a plot was drawn."""
    code = """if True:
        import os, signal, sys, time, weakref
        from emojitune.cli import run_main

        def callback(reference):
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1000):  # here Python handles the signal
                pass

        def main(argv):
            thing = type("Thing", (), {})()
            reference = weakref.ref(thing, callback)
            del thing
            time.sleep(600)

        sys.exit(run_main(main))"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", timeout=120)
    assert (done.returncode, done.stderr.strip()) == (143, "")


def test_a_bound_that_a_message_names_is_one():
    """--seed was to be at most 4.29497e+09: that is no whole number, and as one it is above the bound."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"at least 0 and at most 4294967295$"):
        bounded(int, 0, 2**32 - 1)("-1")


def test_an_error_the_user_can_fix_is_a_sentence_and_a_bug_is_not_hidden(capsys, monkeypatch):
    assert ends_with(UserError("name it")) == 2
    assert capsys.readouterr().err == "error: name it\n"
    monkeypatch.setenv("EMOJITUNE_TRACEBACK", "1")
    assert ends_with(MemoryError()) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said and "--batch-size" in said
    assert ends_with(PermissionError(errno.EACCES, "no", ".tmp-1", None, "labels.png")) == 2
    assert "(labels.png)" in capsys.readouterr().err  # of a rename, the name that the user knows
    with pytest.raises(ValueError, match="bug"):
        ends_with(ValueError("bug"))


def test_a_token_that_the_model_has_no_embedding_for(capsys):
    """As when a tokenizer of another model lies in the folder."""
    assert run_main(lambda _: functional.embedding(torch.tensor([2]), torch.zeros(2, 2))) == 2
    assert "get both from one source" in capsys.readouterr().err


@pytest.mark.parametrize("buffered", ["0", "1"])
def test_a_reader_that_is_gone_ends_it_quietly_and_not_with_success(buffered):
    code = (
        "import sys, time; from emojitune.cli import run_main; sys.exit(run_main(lambda _: time.sleep(1) or print()))"
    )
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered == "1" else "1"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": ROOT, "env": environment}
    with subprocess.Popen([sys.executable, "-c", code], **options) as process:
        process.stdout.close()
        assert (process.wait(timeout=60), process.stderr.read()) == (141, b"")


def test_a_console_that_is_not_utf8_shows_emojis_all_the_same():
    """As on Windows with code page 932, where nothing asks for UTF-8."""
    code = "from emojitune.cli import run_main; run_main(lambda argv: print('😀日本語'))"
    environment = {**os.environ, "PYTHONIOENCODING": "cp932", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, env=environment)
    assert done.stdout.decode("utf-8").strip() == "😀日本語", done.stderr
