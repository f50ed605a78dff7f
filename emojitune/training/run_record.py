"""What a run leaves behind: the merged model, the adapter, and run.json."""

import contextlib
import json
import math
import shutil
import timeit
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median, mode
from typing import Any

from peft import PeftModel
from transformers import GenerationConfig, PreTrainedTokenizerBase, TrainerState

from emojitune.artifacts import OutputDirectory, atomic_write_dir, hash_files, read_json, write_json
from emojitune.data.samples import Sample
from emojitune.model.base_model import EMBEDDED, EMBEDDED_HUB_ID, BaseModel
from emojitune.model.loading import peak_memory_bytes, quiet_transformers, save_tokenizer, stop_token_ids
from emojitune.stats import is_diverged
from emojitune.training.checkpoints import SCRIPT
from emojitune.training.trainer import SharedPrefixSFTTrainer


@dataclass(frozen=True)
class FinishedEpoch:
    """The validation split at the end of an epoch: loss, answer loss, exact accuracy (a fraction of 1)."""

    epoch: int
    validation_loss: float
    answer_loss: float
    exact_accuracy: float


def finished_epochs(state: TrainerState) -> list[FinishedEpoch]:
    """Every epoch that ended with a loss that is no sign of divergence."""
    return [
        FinishedEpoch(round(row["epoch"]), row["eval_loss"], row["eval_answer_loss"], row["eval_exact_accuracy"])
        for row in state.log_history
        if "eval_answer_loss" in row and row["epoch"] > 0 and not is_diverged(row["eval_loss"])
    ]


def best_epoch(epochs: Sequence[FinishedEpoch]) -> FinishedEpoch:
    """The epoch with the lowest answer loss on validation."""
    return min(epochs, key=lambda epoch: epoch.answer_loss)


def save_model(
    trainer: SharedPrefixSFTTrainer, tokenizer: PreTrainedTokenizerBase, base: BaseModel, output: OutputDirectory
) -> None:
    """Write `03_training/adapter/` (LoRA only), then the merged weights with their tokenizer to `03_model/`.

    Each folder appears complete or not at all.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(model, PeftModel):
        adapter = model.peft_config["default"]
        adapter.base_model_name_or_path = EMBEDDED_HUB_ID if base.name == EMBEDDED else base.name
        adapter.target_modules = sorted(adapter.target_modules)  # a set: its order differs from process to process
        with atomic_write_dir(output.adapter) as folder:
            model.save_pretrained(folder, save_embedding_layers=False)  # it would look for the base model on the hub
            (folder / "README.md").unlink(missing_ok=True)  # PEFT's card is a form with nothing filled in
        model = model.merge_and_unload()
    model.config.use_cache = True  # the trainer turned it off
    # Greedy by default, with nothing of the sampling that instruct models ship: transformers refuses to save the two.
    ids = {name: getattr(model.generation_config, name) for name in ("bos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=stop_token_ids(tokenizer), **ids)
    with atomic_write_dir(output.model) as folder, quiet_transformers():
        model.save_pretrained(folder)
        add_rope_settings_of_version_4(folder / "config.json")
        save_tokenizer(tokenizer, folder)


def add_rope_settings_of_version_4(path: Path) -> None:
    """Add the keys in which transformers 4 and mlx-lm look for the rotary embedding to a config.json.

    transformers 5 writes `rope_parameters` only; without these keys the others silently take their own defaults.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, config.get("text_config") or {}):
        rope = part.get("rope_parameters") or {}
        main = rope.get("full_attention", rope)
        part.update({key: main[key] for key in ("rope_theta", "partial_rotary_factor") if key in main})
        if main.get("rope_type", "default") != "default":
            part["rope_scaling"] = {key: value for key, value in main.items() if key != "rope_theta"}
        if "sliding_attention" in rope:
            part["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    write_json(path, config)


def run_record(
    trainer: SharedPrefixSFTTrainer, output: OutputDirectory, train: Sequence[Sample], ended: str, seconds: float | None
) -> dict[str, Any]:
    """What run.json holds: settings.json, and what came out. Call it once the model is saved.

    `ended` is finished, interrupted or diverged; `seconds` is None for a resumed run, whose first part nobody timed.
    """
    epochs = finished_epochs(trainer.state)
    systems = [sample.system for sample in train if sample.system]
    packages = ("torch", "transformers", "peft", "trl", "datasets", "accelerate")
    return {
        **read_json(output.settings, SCRIPT, output),
        "outputs": hash_files(output, [*sorted(output.model.iterdir()), output.loss_history]),
        "system_prompt": mode(systems) if systems else None,
        "labels": list(dict.fromkeys(label for sample in train for label in sample.labels)),
        "device": str(trainer.args.device),
        "dtype": "bf16" if trainer.args.bf16 else "fp32",
        "ended": ended,
        "best_epoch": best_epoch(epochs).epoch,
        "epochs": [asdict(epoch) for epoch in epochs],
        "seconds": seconds and round(seconds, 1),
        "peak_memory_bytes": peak_memory_bytes(),
        "versions": {name: version(name) for name in packages},
    }


def summary(record: dict[str, Any], output: OutputDirectory) -> str:
    """What came out of a run, for the screen."""
    epochs = [FinishedEpoch(**epoch) for epoch in record["epochs"]]
    best, last = best_epoch(epochs), epochs[-1]
    lines = [
        f"Best epoch {best.epoch}: on validation, answer loss {best.answer_loss:.3f}, exact accuracy "
        f"{best.exact_accuracy:.1%}; its weights are kept"
    ]
    if last.epoch > best.epoch and best.answer_loss > 0:
        lines.append(f"The last, {last.epoch}, was {last.answer_loss / best.answer_loss - 1:.0%} worse")
    if record["ended"] == "diverged":
        lines.append("After that the loss exploded, and training stopped; lower --learning-rate")
    took = f" in {record['seconds']:.0f} s" if record["seconds"] else ""
    peak = record["peak_memory_bytes"] / 1e9  # 0 where it was not measured
    memory = f", {peak:.1f} GB of memory at the peak" if peak else ""
    lines.append(f"Wrote {output.model} and {output.run}{took}{memory}")
    return "\n".join(lines)


def estimate_cost(trainer: SharedPrefixSFTTrainer, output: OutputDirectory) -> str:
    """Time a few steps without changing the weights; what the whole run would take, in one sentence."""
    args = trainer.args
    model = trainer.accelerator.prepare_model(trainer.model, evaluation_mode=True)  # bf16 on a GPU, as in training
    trainer.current_gradient_accumulation_steps = args.gradient_accumulation_steps
    training, evaluation = trainer.get_train_dataloader(), trainer.get_eval_dataloader()
    batches, measured = iter(training), next(iter(evaluation))
    count = min(5, len(training))
    if args.activation_checkpointing:
        trainer.model.activation_checkpointing_enable(args.activation_checkpointing_kwargs)  # as train() does
    seconds = timeit.repeat(lambda: trainer.training_step(model, next(batches)), number=1, repeat=count)
    step = median(seconds[1:] or seconds) * args.gradient_accumulation_steps  # the first one warms up caches
    model.zero_grad()
    model.eval()
    evaluate = timeit.timeit(lambda: trainer.prediction_step(model, measured, False)[1].cpu(), number=1)
    steps = math.ceil(len(training) / args.gradient_accumulation_steps) * args.num_train_epochs
    minutes = (steps * step + args.num_train_epochs * len(evaluation) * evaluate) / 60
    weights, trained = 4 * model.num_parameters(), 4 * model.num_parameters(only_trainable=True)
    # A checkpoint holds the adapter, or all weights, and the optimizer's two averages of what is trained; two are kept,
    # one is written.
    is_adapter = isinstance(trainer.accelerator.unwrap_model(model), PeftModel)
    disk = weights + 3 * ((trained if is_adapter else weights) + 2 * trained)
    peak = peak_memory_bytes()
    memory = f"{(peak + 2 * trained) / 1e9:.1f} GB of memory at the peak; " if peak else ""  # the averages come later
    free = shutil.disk_usage(output.root).free
    with contextlib.suppress(OSError):  # the trainer has made these folders; those of an earlier run are not empty
        output.checkpoints.rmdir()
        output.training.rmdir()
    return (
        f"Dry run: {step:.2f} s per step, so about {minutes:.1f} minutes for {steps:.0f} steps and "
        f"{args.num_train_epochs:.0f} evaluations; {memory}"
        f"{disk / 1e9:.1f} GB of disk while training ({free / 1e9:.0f} GB free), {weights / 1e9:.1f} GB after"
    )
