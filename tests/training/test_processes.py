"""Two processes train as one with the same global batch (gloo, on the CPU)."""

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import run_script
from helpers.forked_runner import Runner
from safetensors.torch import load_file
from torch.testing import assert_close

from emojitune.artifacts import OutputDirectory, load_verified_manifest, read_jsonl

SCRIPT = "03_train_model.py"


def start_two(*flags):
    """Two ranks with what torchrun tells each; their runners, and the statuses to wait for."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        world = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    ranks, pool = [Runner(SCRIPT, flags) for _ in range(2)], ThreadPoolExecutor()
    places = [world | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    return ranks, [pool.submit(r.run, environment=place) for r, place in zip(ranks, places, strict=True)]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_processes_equal_one_with_the_same_global_batch(method, prepared, tiny_model):
    # 12 samples: whole batches, or the last would be filled up.
    assert run_script("02_split_data.py", "--output-dir", prepared, "--validation-fraction", 0.25) == 0
    flags = ["--model", tiny_model, "--method", method, "--epochs", 3, "--learning-rate", 1e-3]
    flags += ["--output-dir", prepared]

    def result():
        output = OutputDirectory(prepared)
        run, rows = load_verified_manifest(SCRIPT, output), read_jsonl(output.loss_history, SCRIPT, output)
        return run["best_epoch"], run["processes"], load_file(output.model / "model.safetensors"), rows

    assert run_script(SCRIPT, *flags, "--batch-size", 2) == 0
    best, processes, weights, logged = result()
    ranks, statuses = start_two(*flags, "--batch-size", 1)
    assert [status.result() for status in statuses] == [0, 0], ranks[0].said
    assert ["Best epoch" in rank.said for rank in ranks] == [True, False]
    assert (processes, *result()[:2]) == (1, best, 2)
    for row, expected in zip(result()[3], logged, strict=True):
        assert row == pytest.approx(expected, rel=1e-3)  # the losses, and how large the gradients are
    assert_close(result()[2], weights, rtol=0, atol=1e-3)


def test_a_signal_that_one_rank_gets_stops_all_with_a_checkpoint(prepared, tiny_model):
    history = prepared / "03_training/loss_history.jsonl"
    ranks, statuses = start_two("--model", tiny_model, "--epochs", 1000, "--output-dir", prepared)
    while not (history.is_file() and history.read_text(encoding="utf-8").count("\n") > 3):
        assert not statuses[0].done(), ranks[0].said
        time.sleep(0.1)
    os.kill(ranks[1].process.pid, signal.SIGTERM)
    assert [status.result() for status in statuses] == [143, 143]
    assert list((prepared / "03_training/checkpoints").glob("checkpoint-*/trainer_state.json"))
    assert load_verified_manifest(SCRIPT, OutputDirectory(prepared))["ended"] == "interrupted"
