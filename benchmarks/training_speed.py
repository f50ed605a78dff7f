"""Seconds a training step: stock TRL against our trainer, on the same batches, in one process, in turn.

    uv run benchmarks/training_speed.py [--steps 12] [--output-dir outputs]

Needs step 2. Each batch is given to both trainers, the first to go alternating; the first pair warms up and does not
count. A step is forward, backward and optimizer, LoRA r=16 on all linear layers, batch 8, fp32 on the CPU.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from datasets import Dataset
from peft import LoraConfig
from tqdm import tqdm
from trl import SFTConfig, SFTTrainer

from emojitune.artifacts import read_jsonl
from emojitune.command_line import output_directory
from emojitune.model import EMBEDDED, find_base_model, load_model, load_tokenizer, quiet_transformers, stop_tokens
from emojitune.training import IGNORED, LabelLogitsTrainer, as_tree

BATCH = 8
MATMUL = (1024, 640, 2048)  # rows, and the two sides of Gemma 3 270M's widest layers


@contextmanager
def peak_resident() -> Iterator[list[float]]:
    """The largest resident memory in GB within the block, looked at every 5 ms, as the list's one number."""
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            peak[0] = max(peak[0], pages * 4096 / 1e9)
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def make_trainer(kind: type, folder: Path, tokenizer, rows: list[dict], temporary: str) -> SFTTrainer:
    torch.manual_seed(42)
    config = SFTConfig(
        output_dir=temporary,
        per_device_train_batch_size=BATCH,
        assistant_only_loss=True,
        max_length=512,
        learning_rate=2e-4,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        seed=42,
    )
    extra = {"end_tokens": stop_tokens(tokenizer)} if kind is LabelLogitsTrainer else {}
    with quiet_transformers():
        trainer = kind(
            model=load_model(folder, torch.device("cpu"), torch.float32),
            args=config,
            train_dataset=Dataset.from_list([{"messages": row["messages"]} for row in rows]),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
            **extra,
        )
    trainer.create_optimizer_and_scheduler(1000)
    trainer.model.train()
    return trainer


def step(trainer: SFTTrainer, batch: dict[str, torch.Tensor]) -> tuple[float, float, float]:
    """Seconds, loss, and peak resident memory in GB of one training step."""
    batch = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    count = (batch["labels"][:, 1:] != IGNORED).sum()
    with peak_resident() as peak:
        start = time.perf_counter()
        loss = trainer.training_step(trainer.model, batch, num_items_in_batch=count)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        seconds = time.perf_counter() - start
    return seconds, float(loss), peak[0]


def matmul_peak() -> float:
    """GFLOP/s of this machine's fp32 matrix multiplication, the best of five rounds."""
    rows, inner, columns = MATMUL
    left, right = torch.randn(rows, inner), torch.randn(inner, columns)
    best = 0.0
    for _ in range(5):
        start, runs = time.perf_counter(), 0
        while time.perf_counter() - start < 0.3:
            left @ right
            runs += 1
        best = max(best, 2 * rows * inner * columns * runs / (time.perf_counter() - start) / 1e9)
    return best


def needed_gflop(trainer: SFTTrainer, batch: dict[str, torch.Tensor]) -> float:
    """Arithmetic that our step cannot do without: forward, and backward to the inputs, of every weight for every token
    (4 operations), and of the output layer for every labelled token."""
    tree = as_tree(batch, torch.float32)
    output_layer = trainer.model.get_output_embeddings().weight.numel()
    layers = trainer.model.get_base_model().num_parameters() - output_layer
    return 4 * (layers * tree.inputs["input_ids"].shape[1] + output_layer * len(tree.target)) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--output-dir", type=output_directory, default="outputs")
    args = parser.parse_args()
    rows = [
        row
        for row in read_jsonl(args.output_dir.train, "02_split_data.py", args.output_dir)
        if len(row["messages"]) == 3
    ][:200]
    folder = find_base_model(EMBEDDED).folder
    tokenizer = load_tokenizer(folder)
    peak = matmul_peak()
    with tempfile.TemporaryDirectory() as temporary:
        trainers = [make_trainer(kind, folder, tokenizer, rows, temporary) for kind in (SFTTrainer, LabelLogitsTrainer)]
        loader = iter(trainers[0].get_train_dataloader())
        seconds: list[list[float]] = [[], []]
        memory = [0.0, 0.0]
        differences, shares, tokens = [], [], []
        for number in tqdm(range(args.steps + 1), unit="pair"):
            batch = next(loader)
            losses = [0.0, 0.0]
            for which in (0, 1) if number % 2 else (1, 0):
                took, losses[which], resident = step(trainers[which], batch)
                if number:
                    seconds[which].append(took)
                    memory[which] = max(memory[which], resident)
            differences.append(abs(losses[1] / losses[0] - 1))
            if number:
                shares.append(needed_gflop(trainers[1], batch) / seconds[1][-1] / peak)
                tokens.append(int(batch["attention_mask"].sum()))
    ratios = sorted(stock / ours for stock, ours in zip(*seconds, strict=True))
    print(f"{args.steps} steps of {BATCH} samples, {statistics.mean(tokens):.0f} tokens a batch, both models in memory")
    for name, times, resident in zip(("stock TRL", "ours"), seconds, memory, strict=True):
        print(
            f"{name:10} {statistics.median(times):.2f} s a step (median; {min(times):.2f} to {max(times):.2f}), "
            f"{resident:.1f} GB resident at the peak"
        )
    print(f"ratio      {statistics.median(ratios):.1f} (median; {ratios[0]:.1f} to {ratios[-1]:.1f})")
    print(f"largest relative loss difference: {max(differences):.1e}")
    print(f"matrix multiplication: {peak:.0f} GFLOP/s; our step uses {statistics.median(shares):.0%} of it")


if __name__ == "__main__":
    main()
