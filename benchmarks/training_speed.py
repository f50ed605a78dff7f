"""Seconds per training step of our trainer and its peers, on the batches that step 3 trains on.

    uv run benchmarks/training_speed.py --steps 10

Needs step 2; writes docs/speed.json, to which a second run with other --peers adds. Each peer is a process of its own;
they get each batch in turn, in an order that alternates, and the first batch warms up and does not count. A step is
forward, backward, clipping and AdamW, LoRA r=16 on the MLPs, batches of 8, fp32 on the CPU. Losses must agree:
a fast step that computes something else is no peer. Late in a run a step may take longer than at first, with the same
shapes: `--model outputs/03_model --peers ours "transformers.Trainer, flattened"` shows it, and writes nothing.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from accelerate.data_loader import SeedableRandomSampler
from tqdm import tqdm

from emojitune.artifacts import OutputDirectory, read_jsonl, write_json
from emojitune.cli import bounded, output_directory
from emojitune.data.samples import load_samples
from emojitune.model.base_model import EMBEDDED, find_base_model
from emojitune.model.loading import load_model, load_tokenizer
from emojitune.model.prefix_tree import prefix_tree
from emojitune.training.tokenization import IGNORE_INDEX, tokenize

SPEED = Path(__file__).parent.parent / "docs/speed.json"
BATCH = 8
MATMUL = (352, 640, 2048)  # a batch's tokens, and the two sides of Gemma 3 270M's widest layers

PEERS = {
    "TRL, defaults": ("trl", []),
    "TRL, padding_free": ("padding_free", []),
    "TRL 1.7.0, padding_free": ("padding_free", ["--with", "trl==1.7.0"]),
    "transformers.Trainer, padded": ("tutorial", []),
    "transformers.Trainer, flattened": ("flattened", []),
    "ours": ("ours", []),
}


class Peer:
    """A peer's process: `step` sends it a batch and returns seconds and loss."""

    def __init__(self, kind: str, environment: list[str], folder: Path) -> None:
        script = Path(__file__).parent / "training_peers.py"
        command = ["uv", "run", "--no-sync", *environment, "python", str(script), kind, str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
        )
        self.versions = json.loads(self.process.stdout.readline())["versions"]
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def step(self, batch: list[dict]) -> None:
        print(json.dumps(batch), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        self.seconds.append(answer["seconds"])
        self.losses.append(answer["loss"])


def training_batches(output: OutputDirectory, count: int) -> list[list[dict]]:
    """The first batches of step 3, seed 42."""
    train = load_samples(read_jsonl(output.train, "02_split_data.py", output))
    tokenizer = load_tokenizer(find_base_model(EMBEDDED).folder)
    rows = tokenize(train, tokenizer, 512, "training")
    order = list(SeedableRandomSampler(rows, generator=torch.Generator(), data_seed=42))[: BATCH * count]
    examples = [
        rows[index] | {"assistant_masks": [int(x != IGNORE_INDEX) for x in rows[index]["labels"]]} for index in order
    ]
    return [examples[start : start + BATCH] for start in range(0, len(examples), BATCH)]


def matmul_speed() -> float:
    """GFLOP/s of this machine's fp32 matrix products, the best of five rounds."""
    rows, inner, columns = MATMUL
    left, right = torch.randn(rows, inner), torch.randn(inner, columns)
    best = 0.0
    for _ in range(5):
        start, runs = time.perf_counter(), 0
        while time.perf_counter() - start < 0.5:
            left @ right
            runs += 1
        best = max(best, 2 * rows * inner * columns * runs / (time.perf_counter() - start) / 1e9)
    return best


def needed_gflop(batch: list[dict], layers: int, output_layer: int) -> float:
    """Arithmetic that a LoRA step cannot do without: forward, and backward to the inputs, of each layer's weight for
    each node of the prefix tree (4 operations), and of the output layer for each supervised token."""
    ends = [max(p for p, label in enumerate(row["labels"]) if label != IGNORE_INDEX) for row in batch]
    nodes = len(prefix_tree([row["input_ids"][:end] for row, end in zip(batch, ends, strict=True)]).token_ids)
    supervised = sum(label != IGNORE_INDEX for row in batch for label in row["labels"])
    return 4 * (layers * nodes + output_layer * supervised) / 1e9


def cpu_name() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].split(":")[1].strip() if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=bounded(int, 2, 1000), default=10)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="beside ours (default: all)")
    parser.add_argument("--model", default=EMBEDDED, help="a fine-tuned one: steps late in a run")
    parser.add_argument("--output-dir", type=output_directory, default=OutputDirectory(Path("outputs")))
    args = parser.parse_args()
    base, recorded = find_base_model(args.model), args.model == EMBEDDED
    batches = training_batches(args.output_dir, args.steps + 1)
    model = load_model(base.folder, torch.device("cpu"), torch.float32)
    output_layer = model.get_output_embeddings().weight.numel()
    layers = model.num_parameters() - output_layer
    del model
    peak = matmul_speed()
    names = dict.fromkeys(["ours", *args.peers])
    peers = {name: Peer(*PEERS[name], base.folder) for name in tqdm(names, desc="starting", unit="peer")}
    for number, batch in enumerate(tqdm(batches, desc="steps")):
        for name in list(peers) if number % 2 else reversed(peers):
            peers[name].step(batch)
    ours = peers["ours"]
    found = json.loads(SPEED.read_text(encoding="utf-8")) if SPEED.exists() and recorded else {"peers": {}}
    for name, peer in peers.items():
        peer.process.stdin.close()
        ratios = sorted(a / b for a, b in zip(peer.seconds[1:], ours.seconds[1:], strict=True))
        found["peers"][name] = {
            "seconds": statistics.median(peer.seconds[1:]),
            "times_ours": [statistics.median(ratios), ratios[0], ratios[-1]],
            "losses_differ_by": max(abs(a / b - 1) for a, b in zip(peer.losses[:3], ours.losses[:3], strict=True)),
            "versions": peer.versions,
        }
    shares = [
        needed_gflop(b, layers, output_layer) / s / peak for b, s in zip(batches[1:], ours.seconds[1:], strict=True)
    ]
    found |= {"date": date.today().isoformat(), "machine": cpu_name(), "threads": torch.get_num_threads()}
    found |= {"steps": args.steps, "gflops": peak, "share_of_gflops": statistics.median(shares)}
    if recorded:
        write_json(SPEED, found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
