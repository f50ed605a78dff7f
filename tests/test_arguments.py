"""Every flag of every script with values that cannot be: status 2, one sentence that names it, nothing written."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT, SCRIPTS, run_script

FREE_TEXT = ("--system", "--data", "--model", "--output-dir", "--labels")  # almost any text may be meant
READ_LATER = ("--encoding", "--text-column", "--label-column", "--system-column")  # only the data can say what is wrong
BAD = ("", " ", "nan", "-nan", "inf", "-1", "1e999", "0x10", "１２.5.3", "３番", "あ", "\0", "9" * 400)


@pytest.mark.parametrize("script", SCRIPTS)
def test_bad_values_and_unknown_words(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_script(script, "--help") == 0
    options = capsys.readouterr().out.split("options:")[1]
    flags = re.findall(r"^  (--[\w-]+)( \S+)?", options, flags=re.MULTILINE)  # and whether it takes a value
    assert dict(flags)["--output-dir"]
    arguments = ["--no-such-flag", "あ", "--help=1", *(flag for flag, takes in flags if takes)]
    for flag, takes in flags:
        values = ["yes"] if not takes else [""] if flag in FREE_TEXT else () if flag in READ_LATER else BAD
        arguments += [f"{flag}={value}" for value in values]
    for argument in arguments:
        assert run_script(script, argument) == 2, argument
        _, error = capsys.readouterr().err.split("error: ")
        assert argument.split("=")[0] in error
        assert not list(tmp_path.rglob("*")), argument


def test_help_needs_no_torch():
    code = "import sys\nfrom conftest import SCRIPTS, run_script\nfor name in SCRIPTS: run_script(name, '--help')\n"
    code += "assert 'torch' not in sys.modules"
    options = {"cwd": ROOT / "tests", "env": {"PYTHONPATH": str(ROOT)}, "capture_output": True}
    done = subprocess.run([sys.executable, "-c", code], **options)
    assert done.returncode == 0, done.stderr
