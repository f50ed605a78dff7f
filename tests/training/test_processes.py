"""Two processes train as one with the same global batch (gloo, on the CPU), with whole and with sharded weights."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, run_script
from safetensors.torch import load_file
from torch.testing import assert_close

from emojitune.artifacts import OutputDirectory, checked_record

SCRIPT = "03_train_model.py"
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]
LAUNCHERS = {
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"],
    "accelerate": [*ACCELERATE, "--num_processes", "2"],  # without GPUs it starts one, which starts two
    "accelerate --multi_gpu": [*ACCELERATE, "--multi_gpu", "--num_processes", "2"],
    "fsdp": [*ACCELERATE, "--config_file", "examples/fsdp.yaml", "tests/fsdp_on_cpu.py"],
}


def launch(command: list[object]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT, capture_output=True, encoding="utf-8", env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("launcher", "method"),
    [
        ("accelerate", "lora"),
        ("accelerate --multi_gpu", "full"),
        ("torchrun", "full"),
        ("fsdp", "lora"),
        ("fsdp", "full"),
    ],
)
def test_two_processes_equal_one_with_the_same_global_batch(launcher, method, prepared, tiny_model):
    # 11 samples and 3 later turns of theirs: whole batches, or the last would be filled up.
    assert run_script("02_split_data.py", "--output-dir", prepared, "--validation-fraction", 0.3) == 0
    flags = ["--model", tiny_model, "--method", method, "--epochs", 3, "--learning-rate", 1e-3]
    runs, weights = [], []
    for processes, batch_size in ((1, 2), (2, 1)):
        arguments = [*flags, "--output-dir", prepared, "--batch-size", batch_size]
        if processes == 1:
            assert run_script(SCRIPT, *arguments) == 0
        else:
            done = launch([*LAUNCHERS[launcher], SCRIPT, *arguments])
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("Best epoch") == 1  # one process speaks
        runs.append(checked_record(SCRIPT, OutputDirectory(prepared)))
        assert runs[-1]["processes"] == processes
        weights.append(load_file(prepared / "03_model/model.safetensors"))
        history = (prepared / "03_training/loss_history.jsonl").read_text(encoding="utf-8").splitlines()
        assert [row["epoch"] for row in map(json.loads, history) if "validation_loss" in row] == [0, 1, 2, 3]
    losses = [[epoch["validation_loss"] for epoch in run["epochs"]] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert runs[0]["best_epoch"] == runs[1]["best_epoch"]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        assert_close(weights[1][name], weight, rtol=0, atol=1e-3)
