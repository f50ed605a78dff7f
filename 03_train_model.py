"""Step 3: fine-tune the base model on the training split, and keep the weights of the best epoch.

    uv run 03_train_model.py --epochs 2

LoRA leaves the base model alone and trains small matrices beside it; --method full changes the weights themselves, all
but the embeddings. Only the replies carry loss: the model learns to answer, not to write tweets. After each epoch the
validation split says how well it does on samples that it has not seen; the best epoch's weights become the fine-tuned
model.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from emojitune.artifacts import (
    OutputDirectory,
    UserError,
    hash_files,
    load_verified_manifest,
    lock_output_dir,
    read_jsonl,
    rerun_command,
    write_json,
)
from emojitune.cli import add_device, add_output_dir, bounded, model_name, print0, run_main
from emojitune.data.samples import Sample, load_samples

if TYPE_CHECKING:
    from emojitune.model.base_model import BaseModel
    from emojitune.training.callbacks import StopEarly
    from emojitune.training.trainer import SharedPrefixSFTTrainer

SCRIPT = "03_train_model.py"

# Chosen on splits of the training split only: see docs/experiments.md.
LEARNING_RATES = {"lora": 5e-4, "full": 2e-5}

# Flags that do not change the result of a run: they may stand beside --resume.
RUN_ONLY = ("output_dir", "resume", "dry_run", "keep_checkpoints", "device", "report_to")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog="example: uv run 03_train_model.py --epochs 4 --learning-rate 2e-4"
    )
    add_output_dir(parser)

    what = parser.add_argument_group("what is trained")
    what.add_argument(
        "--model",
        type=model_name,
        default="embedded",
        help="embedded (Gemma 3 270M, no account), a hub id or a folder (default: embedded)",
    )
    what.add_argument(
        "--method",
        choices=("lora", "full"),
        default="lora",
        help="small matrices beside the weights, or the weights themselves (default: lora; quicker, less memory)",
    )

    how = parser.add_argument_group("how")
    how.add_argument(
        "--epochs",
        type=bounded(int, 1, 1000),
        default=1,
        help="passes over the training split (default: 1; another takes as long again, see docs/experiments.md)",
    )
    how.add_argument(
        "--learning-rate",
        type=bounded(float, 0, 100, exclusive_low=True),
        help="the highest of the schedule (default: 5e-4 with lora, whose matrices start from zero; 2e-5 with full)",
    )
    how.add_argument(
        "--batch-size",
        type=bounded(int, 1, 4096),
        default=8,
        help="samples per batch (default: 8; with little data, many small steps learn more than a few large ones)",
    )
    how.add_argument(
        "--gradient-accumulation",
        type=bounded(int, 1, 4096),
        default=1,
        metavar="BATCHES",
        help="gradients of so many batches are added up for an optimizer step (default: 1; with a smaller --batch-size "
        "it saves memory)",
    )
    how.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        help="recompute activations instead of storing them (default: no; it costs a third of the speed)",
    )
    how.add_argument(
        "--max-length",
        type=bounded(int, 16, 32768),
        default=512,
        metavar="TOKENS",
        help="a longer conversation is refused, in both splits (default: 512; a tweet has about 40)",
    )
    how.add_argument(
        "--early-stopping-patience",
        type=bounded(int, 1, 1000),
        metavar="EPOCHS",
        help="stop after so many epochs that were no better (default: never, so that the curve shows overfitting)",
    )
    seed = "decides the order of the samples and LoRA's start (default: 42)"
    how.add_argument("--seed", type=bounded(int, 0, 2**32 - 1), default=42, help=seed)

    run = parser.add_argument_group("this run")
    run.add_argument("--resume", action="store_true", help="continue an interrupted run from its last checkpoint")
    run.add_argument("--dry-run", action="store_true", help="time a few steps, estimate time, memory and disk, stop")
    run.add_argument("--keep-checkpoints", action="store_true", help="keep the last two (default: removed at the end)")
    trackers, log = ("none", "tensorboard", "trackio", "wandb"), "log to a tracker as well (default: none)"
    run.add_argument("--report-to", choices=trackers, default="none", help=log)
    add_device(run)
    args = parser.parse_args(argv)
    if args.resume:
        found = vars(parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(vars(args)))))  # without defaults
        given = [name for name in found if found[name] is not None and (name not in RUN_ONLY or name == "dry_run")]
        if given:
            flag = given[0].replace("_", "-")
            parser.error(f"--{flag} cannot go with --resume, which continues with the settings of the interrupted run")
    if args.report_to != "none" and not find_spec(args.report_to):
        parser.error(f"--report-to {args.report_to} needs its package; install it: uv pip install {args.report_to}")
    # the trainer reads it when it is made
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(args.output_dir.training / "tensorboard"))
    args.learning_rate = args.learning_rate or LEARNING_RATES[args.method]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    output: OutputDirectory = args.output_dir

    import torch  # heavy, as those below: after the arguments, so that --help answers at once
    from peft import LoraConfig
    from trl import SFTConfig

    from emojitune.model.base_model import find_base_model
    from emojitune.model.loading import load_tokenizer, load_trainable, quiet_transformers, select_device, select_dtype
    from emojitune.training.checkpoints import settings_of_interrupted_run
    from emojitune.training.run_record import estimate_cost
    from emojitune.training.tokenization import highlight_labels, tokenize
    from emojitune.training.trainer import SharedPrefixSFTTrainer

    start = time.perf_counter()
    with lock_output_dir(output, SCRIPT):
        # ---- read: the conversations of step 2 ---------------------------------------------------------------------
        train, validation, inputs = read_split(output)
        if args.resume:
            vars(args).update(settings_of_interrupted_run(output, inputs))

        # ---- load: base model and tokenizer ------------------------------------------------------------------------
        device = select_device(args.device)
        base = find_base_model(args.model)
        model = load_trainable(base.folder, device)
        tokenizer = load_tokenizer(base.folder)
        print0(f"Base model {base.name}: {model.num_parameters() / 1e6:.0f} M parameters on {device}")

        # ---- tokenize: conversations become token ids, and labels that are -100 outside the replies ----------------
        train_dataset = tokenize(train, tokenizer, args.max_length, "training")
        eval_dataset = tokenize(validation, tokenizer, args.max_length, "validation")
        print0("One sample, the tokens that carry loss in 【 】:\n  " + highlight_labels(train_dataset[0], tokenizer))

        # ---- configure: LoRA, optimizer, evaluation ----------------------------------------------------------------
        lora = LoraConfig(
            r=16,  # rank of the two small matrices beside each linear layer of the MLPs: 2.3 M parameters
            lora_alpha=32,  # their product is scaled by alpha / r = 2
            target_modules="all-linear",
            exclude_modules=r".*(attn|attention).*",  # adapters there teach nothing more: see docs/experiments.md
            task_type="CAUSAL_LM",
        )
        config = SFTConfig(
            output_dir=str(output.checkpoints),
            num_train_epochs=args.epochs,
            learning_rate=args.learning_rate,
            lr_scheduler_type="cosine",  # large steps first, ever smaller ones to settle
            warmup_steps=0.05,  # share of all steps; Adam's averages mean nothing before
            per_device_train_batch_size=args.batch_size,
            per_device_eval_batch_size=min(32, 4 * args.batch_size),  # without gradients four times as many fit
            gradient_accumulation_steps=args.gradient_accumulation,
            activation_checkpointing=args.gradient_checkpointing,
            max_length=None,  # checked above; TRL would cut long samples, and drop some silently
            dataset_kwargs={"skip_prepare_dataset": True},
            eval_strategy="epoch",
            eval_on_start=not args.resume,  # the point before training
            save_strategy="epoch",
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="eval_answer_loss",
            greater_is_better=False,
            restore_callback_states_from_checkpoint=True,  # the patience of early stopping
            logging_steps=0.1 / args.epochs,  # ten points per epoch
            logging_nan_inf_filter=False,  # a NaN must be seen
            bf16=select_dtype(device) == torch.bfloat16,
            use_cpu=device.type == "cpu",
            dataloader_pin_memory=device.type == "cuda",
            seed=args.seed,
            report_to=args.report_to,
            disable_tqdm=True,  # our own bar shows the losses as well
        )
        trainer = SharedPrefixSFTTrainer(
            model=model,
            args=config,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset.shuffle(seed=0),  # a batch of conversations only would take 0.4 GB more
            processing_class=tokenizer,
            peft_config=lora if args.method == "lora" else None,
        )
        if args.dry_run:
            print0(estimate_cost(trainer, output))
            return 0

        # ---- train, then save the weights of the best epoch --------------------------------------------------------
        del tokenizer  # 0.5 GB
        checkpoint, stop = start_run(trainer, args, inputs, base)
        with stop.on_signals(), quiet_transformers():  # it would warn of tied weights, which a checkpoint holds once
            trainer.train(resume_from_checkpoint=checkpoint)
        save_results(trainer, stop, base, train, args, start)
        return stop.exit_status


def read_split(output: OutputDirectory) -> tuple[list[Sample], list[Sample], dict[str, str]]:
    """Training and validation samples, and the hashes of their files. Raises UserError if step 2 is stale."""
    load_verified_manifest("02_split_data.py", output)
    files = [output.train, output.validation]
    train, validation = (load_samples(read_jsonl(path, "02_split_data.py", output)) for path in files)
    if not validation:
        raise UserError(f"{output.validation} is empty, so no epoch could be measured; add samples to the dataset")
    return train, validation, hash_files(output, files)


def start_run(
    trainer: "SharedPrefixSFTTrainer", args: argparse.Namespace, inputs: dict[str, str], base: "BaseModel"
) -> tuple[str | None, "StopEarly"]:
    """Make `03_training/` ready; the checkpoint to resume from, if any, and what will tell why the run ended."""
    from emojitune.model.loading import release_memory
    from emojitune.training import checkpoints
    from emojitune.training.callbacks import add_callbacks

    if base.folder.resolve() == args.output_dir.model.resolve():
        raise UserError(f"{base.folder} is where this run would write its own model; choose another --output-dir")
    checkpoint = checkpoints.last_complete_checkpoint(args.output_dir) if args.resume else None
    after = f", resuming after step {checkpoints.step_of(checkpoint)}" if checkpoint else ""
    print0(f"Training on {len(trainer.train_dataset)} samples, measuring on {len(trainer.eval_dataset)}{after}")
    if trainer.is_world_process_zero():
        settings = {name: value for name, value in vars(args).items() if name not in RUN_ONLY}
        base_model = {"name": base.name, "weights": base.weights}
        processes = trainer.accelerator.num_processes
        started = {"inputs": inputs, "settings": settings, "base_model": base_model, "processes": processes}
        checkpoints.prepare_run_folder(args.output_dir, checkpoint, started)
    release_memory()
    stop = add_callbacks(trainer, args.output_dir.loss_history, args.early_stopping_patience)
    return str(checkpoint) if checkpoint else None, stop


def save_results(
    trainer: "SharedPrefixSFTTrainer",
    stop: "StopEarly",
    base: "BaseModel",
    train: list[Sample],
    args: argparse.Namespace,
    start: float,
) -> None:
    """Write the weights of the best epoch and `run.json`, and say what came out and what is next."""
    from emojitune.model.loading import load_tokenizer
    from emojitune.reporting.model_card import write_model_card
    from emojitune.training.run_record import finished_epochs, run_record, save_model, summary

    output: OutputDirectory = args.output_dir
    trainer.accelerator.end_training()  # without this, gloo's threads sometimes crash the process at exit
    resume, plot = rerun_command(SCRIPT, output, "--resume"), rerun_command("04_plot_loss.py", output)
    if not finished_epochs(trainer.state):
        if stop.diverged:
            raise UserError(
                f"the loss exploded before the first epoch ended, so no model is kept; lower --learning-rate (it was "
                f"{args.learning_rate:g}), and look at the curve: {plot}"
            )
        print0(f"Stopped at step {trainer.state.global_step}, before the first epoch ended; continue with: {resume}")
        return
    if trainer.is_world_process_zero():
        save_model(trainer, load_tokenizer(base.folder), base, output)
        seconds = None if args.resume else time.perf_counter() - start
        record = run_record(trainer, output, train, stop.ended, seconds)
        write_model_card(output, record)
        write_json(output.run, record)
        if not (args.keep_checkpoints or stop.signal):
            shutil.rmtree(output.checkpoints, ignore_errors=True)
        print(summary(record, output))
        print(f"Continue with: {resume}" if stop.signal else f"Next: {plot}")


if __name__ == "__main__":
    sys.exit(run_main(main))
