"""Run a script under FSDP on CPUs: accelerate shards for GPUs only, so it is told that these are some.

    accelerate launch --config_file examples/fsdp.yaml tests/fsdp_on_cpu.py 03_train_model.py …

Everything else, the shards and the gloo messages between the processes, is real.
"""

import functools
import os
import runpy
import sys
from pathlib import Path

from accelerate import Accelerator
from accelerate.state import DistributedType, PartialState

os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)


def without_cpu(init):
    return functools.wraps(init)(lambda self, *args, **kwargs: init(self, *args, **{**kwargs, "cpu": False}))


Accelerator.__init__, PartialState.__init__ = without_cpu(Accelerator.__init__), without_cpu(PartialState.__init__)

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
