"""Every flag of every script with values that cannot be: status 2, one sentence that names it, nothing written."""

import contextlib
import io
import re
import subprocess
import sys

import pytest
from conftest import ROOT, SCRIPTS, run_script

FREE_TEXT = ("--system", "--data", "--model", "--output-dir", "--labels")  # almost any text may be meant
READ_LATER = ("--encoding", "--text-column", "--label-column", "--system-column")  # only the data can say what is wrong
BAD = ("", " ", "nan", "-nan", "inf", "-1", "1e999", "0x10", "１２.5.3", "３番", "あ", "\0", "9" * 400)


def flags_of(script: str) -> list[tuple[str, bool]]:
    """Each flag, and whether it takes a value, as --help says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert run_script(script, "--help") == 0
    options = said.getvalue().split("options:")[1]
    found = re.findall(r"^  (--[\w-]+)( \S+)?", options, flags=re.MULTILINE)  # --help is behind its -h
    return [(flag, bool(value)) for flag, value in found]


EVERY_FLAG = [(script, flag, takes) for script in SCRIPTS for flag, takes in flags_of(script)]
assert {script for script, _, _ in EVERY_FLAG} == set(SCRIPTS) and len(EVERY_FLAG) > 40


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def check(script, argument):
        assert run_script(script, argument) == 2, argument
        _, error = capsys.readouterr().err.split("error: ")
        assert argument.split("=")[0] in error
        assert not list(tmp_path.rglob("*")), argument

    return check


@pytest.mark.parametrize(("script", "flag", "takes"), EVERY_FLAG, ids=str)
def test_bad_values(script, flag, takes, refused):
    if takes:
        refused(script, flag)
    for value in ["yes"] if not takes else [""] if flag in FREE_TEXT else () if flag in READ_LATER else BAD:
        refused(script, f"{flag}={value}")


@pytest.mark.parametrize("script", SCRIPTS)
def test_unknown_flags_and_words(script, refused):
    for argument in ("--no-such-flag", "あ", "--help=1"):
        refused(script, argument)


def test_help_needs_no_torch():
    code = "import sys\nfrom conftest import SCRIPTS, run_script\nfor name in SCRIPTS: run_script(name, '--help')\n"
    code += "assert 'torch' not in sys.modules"
    options = {"cwd": ROOT / "tests", "env": {"PYTHONPATH": str(ROOT)}, "capture_output": True}
    done = subprocess.run([sys.executable, "-c", code], **options)
    assert done.returncode == 0, done.stderr
