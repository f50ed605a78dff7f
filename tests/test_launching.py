"""What accelerate was asked for and did not start is found out, and nothing else is."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from emojitune.artifacts import UserError
from emojitune.launching import missing_processes, start_processes

LONE = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in (*LONE, "RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)


def started_by(*words):
    """What a process finds that such a command line started with accelerate's traces."""
    code = "from emojitune.launching import missing_processes; print(missing_processes())"
    start = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {code!r}]))"
    return subprocess.run(
        [sys.executable, "-c", start, *words], cwd=ROOT, env={**os.environ, **LONE}, capture_output=True, text=True
    )


def test_alone_or_one_of_several_misses_nobody(monkeypatch):
    assert missing_processes() == 0
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # accelerate, asked for one
    assert missing_processes() == 0
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("RANK", "1")
    assert missing_processes() == 0


@pytest.mark.parametrize("words", [("--num_processes", "3"), ("--num_processes=3",), ("launch", "--num-processes=3")])
def test_the_number_is_that_of_accelerates_command_line(words):
    assert started_by(*words, "03_train_model.py").stdout == "3\n"


def test_without_a_number_one_sentence_says_what_to_add(monkeypatch):
    for name, value in LONE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("psutil.Process.cmdline", lambda self: ["accelerate", "launch", "03_train_model.py"])
    with pytest.raises(UserError, match="add --multi_gpu"):
        missing_processes()


def test_each_process_has_its_rank_and_a_failure_is_reported(tmp_path, monkeypatch):
    script = tmp_path / "says.py"
    script.write_text("import os, sys; open(os.environ['RANK'], 'w').close(); sys.exit(int(sys.argv[1]))")
    monkeypatch.chdir(tmp_path)
    assert start_processes(2, script, ["0"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "says.py"]
    assert start_processes(2, script, ["3"]) != 0
