"""Every flag of every script with values that cannot be: status 2, one sentence, nothing written."""

import contextlib
import io
import re

import pytest
from conftest import SCRIPTS, run_script

FREE_TEXT = ("--system", "--data", "--model", "--output-dir")  # almost any text may be meant
BAD = ("", " ", "nan", "-nan", "inf", "-1", "1e999", "0x10", "１２.5.3", "３番", "あ", "\0", "9" * 400)


def flags_of(script: str) -> list[tuple[str, bool]]:
    """Each flag, and whether it takes a value, as --help says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert run_script(script, "--help") == 0
    options = said.getvalue().split("options:")[1]
    found = re.findall(r"^  (--[\w-]+)( [A-Z{]\S*)?", options, flags=re.MULTILINE)  # --help is behind its -h
    return [(flag, bool(value)) for flag, value in found]


EVERY_FLAG = [(script, flag, takes) for script in SCRIPTS for flag, takes in flags_of(script)]
assert {script for script, _, _ in EVERY_FLAG} == set(SCRIPTS) and len(EVERY_FLAG) > 40


def refused(script, arguments, folder, capsys):
    assert run_script(script, *arguments) == 2, arguments
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert len(re.findall(r"error: ", said.err)) == 1, said.err
    assert not list(folder.rglob("*")), arguments


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("script", "flag", "takes"), EVERY_FLAG, ids=str)
def test_bad_values(script, flag, takes, tmp_path, capsys):
    if takes:
        refused(script, [flag], tmp_path, capsys)
    for value in ["yes"] if not takes else [""] if flag in FREE_TEXT else BAD:
        refused(script, [f"{flag}={value}"], tmp_path, capsys)


@pytest.mark.parametrize("script", SCRIPTS)
def test_unknown_flags_and_words(script, tmp_path, capsys):
    for argument in ("--no-such-flag", "あ", "--help=1"):
        refused(script, [argument], tmp_path, capsys)
