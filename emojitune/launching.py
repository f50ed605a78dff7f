"""The processes that `accelerate launch` was asked for and does not start: without GPUs it starts a single one."""

import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from emojitune.artifacts import UserError

# What accelerate leaves in the environment of a lone process when several were asked for, and what a launcher that
# has started several tells each of them.
_LONE = {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"}
_RANKS = {"RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK"}


def missing_processes() -> int:
    """How many processes accelerate was asked for when it started this one alone; 0 when all are there.

    Raises UserError when the number is not to be found: accelerate does not pass it on, its own command line has it.
    """
    if not os.environ.keys() >= _LONE or os.environ.keys() & _RANKS:
        return 0
    import psutil  # accelerate brings it along

    words = [part for word in psutil.Process(os.getppid()).cmdline() for part in word.split("=", 1)]
    for flag, value in pairwise(words):
        if flag in ("--num_processes", "--num-processes") and value.isdecimal():
            return int(value)
    raise UserError(
        "accelerate started one process where several were asked for, as it does without GPUs; "
        "add --multi_gpu after launch, which starts all of them on CPUs as well"
    )


def start_processes(count: int, script: Path, argv: Sequence[str]) -> int:
    """Run `script` in that many processes of this machine, by torch's own launcher; its exit status."""
    port = f"--master_port={os.environ.get('MASTER_PORT', '29500')}"
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={count}", port]
    return subprocess.call([*launcher, str(script), *argv])
