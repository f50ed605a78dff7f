"""What two or more of the numbered scripts need; docs/architecture.md is the map."""

import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL would tell the hub of every training run
# How long a thread of GNU OpenMP, PyTorch's on Linux, spins while it waits for the others. By default so long that a
# training step beside two busy programs takes 20 times as long, instead of 2.5 times (docs/experiments.md).
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
