"""A bad machine: no room, no permission, no network, no memory; and a chat of thousands of inputs."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import STEPS, copy_of, run_script
from helpers.forked_runner import Runner, artifacts

from emojitune.cli import run_main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and /proc as Linux has them")

PLOT, CHAT = "04_plot_loss.py", "06_test_finetuned_single.py"


def one_sentence(status: int, said: str, *words: str) -> None:
    """The user reads one error, without a traceback, that says these words."""
    assert status == 2 and "Traceback" not in said, said
    [error] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert all(word in error for word in words), said


@pytest.mark.parametrize("script", STEPS)
def test_a_full_disk_loses_nothing(script, stages, tmp_path):
    before, flags = stages[script]
    output = copy_of(stages[script], tmp_path)
    runner = Runner(script, [*flags, "--output-dir", output])
    for room in (100, 1300):  # at the first file, and at one in the middle
        one_sentence(runner.run(file_bytes=room), runner.said, "the disk is full", "run the same command again")
        assert artifacts(before).items() <= artifacts(output).items()
    assert runner.run() == 0, runner.said  # room was made


@pytest.mark.parametrize("script", [name for name in STEPS if name != PLOT])  # it reads first
def test_a_place_that_cannot_be_written(script, stages, tmp_path):
    output = Path("/sys/emojitune")  # where permissions do not stop root, this file system does
    if os.getuid():
        output = tmp_path / "out"
        tmp_path.chmod(0o555)
    runner = Runner(script, [*stages[script][1], "--output-dir", output])
    one_sentence(runner.run(), runner.said, "no permission", str(output))
    tmp_path.chmod(0o755)


def test_everything_runs_without_a_network(stages, tmp_path):
    for script in STEPS:
        runner = Runner(script, [*stages[script][1], "--output-dir", tmp_path / "out"])
        assert runner.run(no_network=True) == 0 and "the network was tried" not in runner.said, runner.said


def test_a_hub_model_without_a_network_is_one_sentence(prepared):
    runner = Runner("03_train_model.py", ["--output-dir", prepared, "--model", "somebody/some-model"])
    one_sentence(runner.run(no_network=True), runner.said, "somebody/some-model", "check the network")


def test_no_memory_for_the_batch_names_the_flag(capsys):
    status = run_main(lambda argv: torch.empty(2**52))  # a batch of petabytes
    one_sentence(status, capsys.readouterr().err, "memory", "--batch-size")


def test_a_chat_of_six_hundred_inputs_keeps_its_memory(stages, monkeypatch, capsys):
    kinds = [
        "あ", "今日は最高", "😀" * 300, "👨‍👩‍👧‍👦" * 50, "ЁЖ العربية हिन्दी", "a" * 20_000, "長い話" * 300,
        "\u202e\u200b\ufeffx", "<end_of_turn>", "\x1b[2J", "e\u0301" * 40,
    ]  # fmt: skip
    resident = []

    def typed():
        for number in range(600):
            assert number == 0 or capsys.readouterr().out.endswith("\n"), f"no reply to input {number - 1}"
            if number in (100, 599):
                resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
            yield kinds[number % len(kinds)].encode()

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=typed(), isatty=lambda: False))
    assert run_script(CHAT, "--output-dir", stages["done"][0], "--max-new-tokens", 2) == 0
    assert resident[1] - resident[0] < 4 * 2**20  # 8 kB an input
