"""Compare training settings on splits of the training split; the validation split is never looked at.

    uv run benchmarks/tuning.py --set base --set lr1e-3:learning_rate=1e-3 --set r32:r=32,lora_alpha=64

Needs step 2. The training split is split again, stratified, with seed 1; each setting trains on one part and is scored
on the other: exact accuracy by epoch, and of the best epoch (lowest answer loss) the calibration error. A setting is a
name and what it changes: learning_rate, epochs, batch_size, r, lora_alpha, lora_dropout, neftune_noise_alpha,
weight_decay, later_turns (0 or 1), seed.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from later_turns import later_turns_as_single_turns
from peft import LoraConfig
from transformers import PrinterCallback
from trl import SFTConfig

from emojitune.artifacts import OutputDirectory, load_verified_manifest, read_jsonl
from emojitune.cli import bounded, output_directory
from emojitune.data.samples import Sample, load_samples, subsample
from emojitune.data.splitting import split
from emojitune.evaluation.metrics import score
from emojitune.evaluation.predictions import build_examples, predict
from emojitune.inference.chat_model import ChatModel
from emojitune.model.base_model import EMBEDDED, find_base_model
from emojitune.model.loading import load_tokenizer, load_trainable, quiet_transformers
from emojitune.training.callbacks import ProgressBar
from emojitune.training.run_record import best_epoch, finished_epochs
from emojitune.training.tokenization import tokenize
from emojitune.training.trainer import SharedPrefixSFTTrainer

DEFAULTS = {
    "learning_rate": 5e-4,
    "epochs": 1,
    "batch_size": 8,
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "neftune_noise_alpha": 0.0,
    "weight_decay": 0.0,
    "later_turns": 0,
    "seed": 42,
}


def parse_setting(text: str) -> tuple[str, dict[str, float]]:
    name, _, changes = text.partition(":")
    values = dict(pair.split("=") for pair in changes.split(",") if pair)
    return name, DEFAULTS | {key: type(DEFAULTS[key])(value) for key, value in values.items()}


def train(setting: dict, samples: list[Sample], measured: list[Sample], folder: str) -> dict:
    """Train with one setting; accuracies by epoch, and the calibration error of the best."""
    base = find_base_model(EMBEDDED)
    tokenizer = load_tokenizer(base.folder)
    device = torch.device("cpu")
    rows = samples + (later_turns_as_single_turns(samples) if setting["later_turns"] else [])
    config = SFTConfig(
        output_dir=folder,
        num_train_epochs=setting["epochs"],
        learning_rate=setting["learning_rate"],
        per_device_train_batch_size=setting["batch_size"],
        per_device_eval_batch_size=16,
        neftune_noise_alpha=setting["neftune_noise_alpha"] or None,
        weight_decay=setting["weight_decay"],
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        activation_checkpointing=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_answer_loss",
        greater_is_better=False,
        bf16=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        seed=setting["seed"],
        report_to="none",
        disable_tqdm=True,
    )
    lora = LoraConfig(
        r=setting["r"],
        lora_alpha=setting["lora_alpha"],
        lora_dropout=setting["lora_dropout"],
        target_modules="all-linear",
        exclude_modules=r".*(attn|attention).*",
        task_type="CAUSAL_LM",
    )
    trainer = SharedPrefixSFTTrainer(
        model=load_trainable(base.folder, device),
        args=config,
        train_dataset=tokenize(rows, tokenizer, 512, "training"),
        eval_dataset=tokenize(measured, tokenizer, 512, "validation"),
        processing_class=tokenizer,
        peft_config=lora,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ProgressBar(len(measured)))
    start = time.perf_counter()
    with quiet_transformers():
        trainer.train()
    seconds = time.perf_counter() - start
    epochs = finished_epochs(trainer.state)
    model = ChatModel("tuned", trainer.model.merge_and_unload().eval(), tokenizer, "")
    labels = list(dict.fromkeys(label for sample in samples for label in sample.labels))
    examples = build_examples(measured, labels)
    scores = score(predict(model, examples, labels, lambda done: None), labels)
    return {
        "answer_loss": [round(epoch.answer_loss, 3) for epoch in epochs],
        "exact_accuracy": [round(epoch.exact_accuracy, 4) for epoch in epochs],
        "best_epoch": best_epoch(epochs).epoch,
        "restricted": str(scores.restricted_exact_accuracy),
        "group": str(scores.restricted_group_accuracy),
        "log_loss": round(scores.log_loss, 3),
        "calibration_error": round(scores.calibration_error, 3),
        "seconds": round(seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--set", dest="settings", type=parse_setting, action="append", required=True)
    parser.add_argument("--max-samples", type=bounded(int, 50, 10**9), default=10**9, help="to train on")
    parser.add_argument("--max-measured", type=bounded(int, 50, 10**9), default=10**9, help="to score on")
    parser.add_argument("--output-dir", type=output_directory, default=OutputDirectory(Path("outputs")))
    args = parser.parse_args()
    load_verified_manifest("02_split_data.py", args.output_dir)
    samples = load_samples(read_jsonl(args.output_dir.train, "02_split_data.py", args.output_dir))
    inner, measured = split(samples, 0.15, seed=1)
    inner, measured = subsample(inner, args.max_samples), subsample(measured, args.max_measured)
    for name, setting in args.settings:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps({"name": name, **train(setting, inner, measured, folder)}), flush=True)


if __name__ == "__main__":
    main()
