"""A bad machine: no room, no permission, no network, no memory; and a chat of thousands of inputs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, STEPS, copy_of
from helpers.forked_runner import Runner, artifacts

from emojitune.cli import run_main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and /proc as Linux has them")

CHAT = "06_test_finetuned_single.py"


def one_sentence(status: int, said: str, *words: str) -> None:
    """The user reads one error, without a traceback, that says these words."""
    assert status == 2 and "Traceback" not in said, said
    [error] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert all(word in error for word in words), said


@pytest.mark.parametrize("room", [100, 3000])
@pytest.mark.parametrize("script", STEPS)
def test_a_full_disk_loses_nothing(script, room, stages, tmp_path):
    before, flags = stages[script]
    output = copy_of(stages[script], tmp_path)
    runner = Runner(script, [*flags, "--output-dir", output])
    status = runner.run(file_bytes=room)
    if room == 3000 and status == 0:
        return  # the step writes no file as large as that
    one_sentence(status, runner.said, "the disk is full", "run the same command again")
    assert artifacts(before).items() <= artifacts(output).items()
    assert runner.run() == 0, runner.said  # room was made


@pytest.mark.parametrize("script", [*STEPS, CHAT])
def test_a_place_that_cannot_be_written(script, stages, tmp_path):
    if os.getuid() == 0:  # whom permissions do not stop; this file system does
        output = Path("/sys/emojitune")
    else:
        tmp_path.chmod(0o555)
        output = tmp_path / "out"
    flags = stages[script][1] if script in stages else []
    runner = Runner(script, [*flags, "--output-dir", output])
    status = runner.run()
    tmp_path.chmod(0o755)
    one_sentence(status, runner.said)
    assert not output.exists()


def test_everything_runs_without_a_network(stages, tmp_path):
    output = tmp_path / "out"
    for script in STEPS:
        runner = Runner(script, [*stages[script][1], "--output-dir", output])
        assert runner.run(no_network=True, environment={"HF_HUB_OFFLINE": "1"}) == 0, runner.said


def test_a_hub_model_without_a_network_is_one_sentence(prepared):
    runner = Runner("03_train_model.py", ["--output-dir", prepared, "--model", "somebody/some-model"])
    status = runner.run(no_network=True)
    one_sentence(status, runner.said, "somebody/some-model")


def test_no_memory_for_the_batch_names_the_flag(capsys):
    status = run_main(lambda argv: torch.empty(2**52))  # a batch of petabytes
    one_sentence(status, capsys.readouterr().err, "memory", "--batch-size")


@pytest.mark.slow
def test_a_chat_of_two_thousand_inputs_keeps_its_memory(stages, tmp_path):
    output = stages["05_test_base.py"][0]
    kinds = [
        "あ", "今日は最高", "😀" * 300, "👨‍👩‍👧‍👦" * 50, "ЁЖ العربية हिन्दी", "a" * 20_000, "長い話" * 300,
        "\u202e\u200b\ufeffx", "<end_of_turn>", "\x1b[2J", "e\u0301" * 40,
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, CHAT, "--output-dir", output, "--max-new-tokens", "2"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8",
    )  # fmt: skip
    pages = {}
    for number in range(2000):
        process.stdin.write(kinds[number % len(kinds)] + "\n")
        process.stdin.flush()
        assert process.stdout.readline().endswith("\n"), f"no reply to input {number}"
        if number in (99, 1999):
            pages[number] = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])  # resident
    process.stdin.close()
    assert process.wait(timeout=30) == 0
    assert pages[1999] <= 1.05 * pages[99], pages
