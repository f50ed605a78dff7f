"""What a run leaves behind: the merged model, the adapter, and run.json."""

import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase, TrainerState

from emojitune.artifacts import OutputDirectory, atomic_write_dir, hash_files
from emojitune.data.samples import Sample
from emojitune.model.base_model import EMBEDDED, BaseModel
from emojitune.model.loading import (
    peak_memory_bytes,
    quiet_transformers,
    release_memory,
    save_tokenizer,
    stop_token_ids,
)
from emojitune.training.trainer import SharedPrefixSFTTrainer

# What the adapter's configuration calls the embedded model: a name that means something on other machines.
EMBEDDED_HUB_ID = "google/gemma-3-270m"


@dataclass(frozen=True)
class FinishedEpoch:
    """The validation split at the end of an epoch: loss, answer loss, exact accuracy (a fraction of 1)."""

    epoch: int
    validation_loss: float
    answer_loss: float
    exact_accuracy: float


def finished_epochs(state: TrainerState) -> list[FinishedEpoch]:
    """Every epoch that ended with a finite loss."""
    return [
        FinishedEpoch(round(row["epoch"]), row["eval_loss"], row["eval_answer_loss"], row["eval_exact_accuracy"])
        for row in state.log_history
        if "eval_answer_loss" in row and row["epoch"] > 0 and math.isfinite(row["eval_loss"])
    ]


def best_epoch(epochs: Sequence[FinishedEpoch]) -> FinishedEpoch | None:
    """The epoch with the lowest answer loss on validation, or None when none has ended."""
    return min(epochs, key=lambda epoch: epoch.answer_loss, default=None)


def save_model(
    trainer: SharedPrefixSFTTrainer, tokenizer: PreTrainedTokenizerBase, base: BaseModel, output: OutputDirectory
) -> None:
    """Write `03_training/adapter/` (LoRA only), then the merged weights with their tokenizer to `03_model/`.

    Each folder appears complete or not at all. Call it in every process; rank 0 writes.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    trainer.optimizer = trainer.lr_scheduler = None
    model.zero_grad()
    release_memory()
    if not trainer.is_world_process_zero():
        return
    if isinstance(model, PeftModel):
        name = EMBEDDED_HUB_ID if base.name == EMBEDDED else base.name
        model.peft_config["default"].base_model_name_or_path = name
        with atomic_write_dir(output.adapter) as folder:
            model.save_pretrained(folder)
            (folder / "README.md").unlink(missing_ok=True)  # PEFT's card is a form with nothing filled in
        model = model.merge_and_unload()
    model.config.use_cache = True
    model.generation_config.eos_token_id = stop_token_ids(tokenizer)
    model.generation_config.do_sample = False  # greedy by default: instruct models ship a sampling config
    model.generation_config.top_k = model.generation_config.top_p = None
    with atomic_write_dir(output.model) as folder, quiet_transformers():
        model.save_pretrained(folder)
        save_tokenizer(tokenizer, folder)


def run_record(
    trainer: SharedPrefixSFTTrainer,
    output: OutputDirectory,
    settings: dict[str, Any],
    base: BaseModel,
    train: Sequence[Sample],
    inputs: dict[str, str],
    ended: str,
    seconds: float,
) -> dict[str, Any]:
    """What run.json holds; call it once the model is saved. `ended` is finished, interrupted or diverged."""
    epochs = finished_epochs(trainer.state)
    return {
        "inputs": inputs,
        "outputs": hash_files(output, [*sorted(output.model.iterdir()), output.loss_history]),
        "settings": settings,
        "base_model": {"name": base.name, "weights": base.weights},
        "system_prompt": most_common_system_prompt(train),
        "labels": list(dict.fromkeys(label for sample in train for label in sample.labels)),
        "device": str(trainer.args.device),
        "dtype": "bf16" if trainer.args.bf16 else "fp32",
        "processes": trainer.accelerator.num_processes,
        "ended": ended,
        "best_epoch": best_epoch(epochs).epoch,
        "epochs": [asdict(epoch) for epoch in epochs],
        "seconds": round(seconds, 1),
        "tokens_per_second": round(trainer.tokens_trained / seconds, 1),
        "peak_memory_bytes": peak_memory_bytes(),
        "versions": {
            name: version(name) for name in ("torch", "transformers", "peft", "trl", "datasets", "accelerate")
        },
    }


def summary(epochs: Sequence[FinishedEpoch], record: dict[str, Any], output: OutputDirectory) -> str:
    """What came out of a run, for the screen."""
    best, last = best_epoch(epochs), epochs[-1]
    lines = [
        f"Best epoch {best.epoch}: on validation, answer loss {best.answer_loss:.3f}, exact accuracy "
        f"{best.exact_accuracy:.1%}; its weights are kept"
    ]
    if last.epoch > best.epoch and best.answer_loss > 0:
        lines.append(f"The last, {last.epoch}, was {last.answer_loss / best.answer_loss - 1:.0%} worse")
    if record["ended"] == "diverged":
        lines.append("After that the loss exploded, and training stopped; lower --learning-rate")
    memory = record["peak_memory_bytes"] / 1e9
    lines.append(
        f"Wrote {output.model} and {output.run} in {record['seconds']:.0f} s, {memory:.1f} GB of memory at the peak"
    )
    return "\n".join(lines)


def most_common_system_prompt(samples: Sequence[Sample]) -> str | None:
    prompts = Counter(sample.system for sample in samples if sample.system)
    return prompts.most_common(1)[0][0] if prompts else None


def estimate_cost(trainer: SharedPrefixSFTTrainer, output: OutputDirectory, steps: int = 4) -> str:
    """Time a few steps without changing the weights; what the whole run would take, in one sentence."""
    import time

    args, model = trainer.args, trainer.model
    trainer.current_gradient_accumulation_steps = args.gradient_accumulation_steps
    model.train()
    batches = iter(trainer.get_train_dataloader())
    times = []
    for _ in range(min(steps + 1, len(trainer.get_train_dataloader()))):  # the first step warms up caches
        start = time.perf_counter()
        trainer.training_step(model, trainer._prepare_inputs(next(batches)))
        times.append(time.perf_counter() - start)
    model.zero_grad()
    start = time.perf_counter()
    model.eval()
    evaluation = trainer.get_eval_dataloader()
    trainer.prediction_step(model, next(iter(evaluation)), prediction_loss_only=False)
    evaluate = (time.perf_counter() - start) * len(evaluation)
    step = sorted(times[1:] or times)[len(times[1:]) // 2] * args.gradient_accumulation_steps
    total = math.ceil(len(trainer.get_train_dataloader()) / args.gradient_accumulation_steps) * args.num_train_epochs
    weights = 4 * model.num_parameters()
    trained = 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    # A checkpoint holds the trained weights and the optimizer's two averages of them; two are kept, one is written.
    disk = weights + 3 * 3 * trained
    minutes = (total * step + args.num_train_epochs * evaluate) / 60
    free = shutil.disk_usage(output.root).free
    return (
        f"Dry run: {step:.2f} s per step, so about {minutes:.1f} minutes for {total:.0f} steps and "
        f"{args.num_train_epochs:.0f} evaluations; {peak_memory_bytes() / 1e9:.1f} GB of memory at the peak; "
        f"{disk / 1e9:.1f} GB of disk while training ({free / 1e9:.0f} GB free), {weights / 1e9:.1f} GB after"
    )
