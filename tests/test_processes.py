"""Two processes train as one with the same global batch (gloo, on the CPU)."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, run_script

from emojitune.artifacts import OutputDirectory, checked_record

SCRIPT = "03_train_model.py"


@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_processes_equal_one_with_the_same_global_batch(method, prepared, tiny_model):
    flags = ["--model", tiny_model, "--method", method, "--epochs", 3, "--learning-rate", 1e-3]
    losses = []
    for processes, batch_size in ((1, 8), (2, 4)):
        arguments = [*flags, "--output-dir", prepared, "--batch-size", batch_size]
        if processes == 1:
            assert run_script(SCRIPT, *arguments) == 0
        else:
            launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", SCRIPT]
            done = subprocess.run(
                [str(part) for part in (*launch, *arguments)],
                cwd=ROOT, capture_output=True, encoding="utf-8", env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("Best epoch") == 1  # one process speaks
        run = checked_record(SCRIPT, OutputDirectory(prepared))
        assert run["processes"] == processes
        losses.append([epoch["validation_loss"] for epoch in run["epochs"]])
        history = (prepared / "03_training/loss_history.jsonl").read_text(encoding="utf-8").splitlines()
        assert [row["epoch"] for row in map(json.loads, history) if "validation_loss" in row] == [0, 1, 2, 3]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
