"""Two processes train as one with the same global batch (gloo, on the CPU)."""

import subprocess
import sys
import time

import psutil
import pytest
from conftest import ROOT, run_script
from safetensors.torch import load_file
from torch.testing import assert_close

from emojitune.artifacts import OutputDirectory, load_verified_manifest

SCRIPT = "03_train_model.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_processes_equal_one_with_the_same_global_batch(method, prepared, tiny_model):
    # 12 samples: whole batches, or the last would be filled up.
    assert run_script("02_split_data.py", "--output-dir", prepared, "--validation-fraction", 0.25) == 0
    flags = ["--model", tiny_model, "--method", method, "--epochs", 3, "--learning-rate", 1e-3]
    runs, weights, logged = [], [], []
    for launcher, batch_size in (([sys.executable], 2), (TORCHRUN, 1)):
        command = [*launcher, SCRIPT, *flags, "--output-dir", prepared, "--batch-size", batch_size]
        done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Best epoch") == 1  # only rank 0 prints
        runs.append(load_verified_manifest(SCRIPT, OutputDirectory(prepared)))
        weights.append(load_file(prepared / "03_model/model.safetensors"))
        logged.append((prepared / "03_training/loss_history.jsonl").read_text(encoding="utf-8").count("\n"))
    losses = [[epoch["validation_loss"] for epoch in run["epochs"]] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert [run["processes"] for run in runs] == [1, 2]
    assert logged[0] == logged[1]  # logging counts global steps
    assert runs[0]["best_epoch"] == runs[1]["best_epoch"]
    for name, weight in weights[0].items():
        assert_close(weights[1][name], weight, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_a_signal_that_one_rank_gets_stops_all_with_a_checkpoint(prepared, tiny_model):
    flags = ["--model", tiny_model, "--epochs", 1000, "--output-dir", prepared]
    history = prepared / "03_training/loss_history.jsonl"
    with subprocess.Popen(list(map(str, [*TORCHRUN, SCRIPT, *flags])), cwd=ROOT, stderr=subprocess.DEVNULL) as run:
        while not (history.is_file() and history.read_text(encoding="utf-8").count("\n") > 3):
            assert run.poll() is None
            time.sleep(0.1)
        [other] = [rank for rank in psutil.Process(run.pid).children() if rank.environ()["RANK"] == "1"]
        other.terminate()
        run.wait()
    assert list((prepared / "03_training/checkpoints").glob("checkpoint-*/trainer_state.json"))
    assert load_verified_manifest(SCRIPT, OutputDirectory(prepared))["ended"] == "interrupted"
