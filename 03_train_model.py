"""Step 3: fine-tune the base model on the training split, and keep the weights of the best epoch.

    uv run 03_train_model.py --epochs 2

LoRA leaves the base model alone and trains small matrices beside it; --method full changes the weights themselves.
Only the replies carry loss: the model learns to answer, not to write tweets. After each epoch the validation split
says how well it does on samples that it has not seen; the best epoch's weights become the fine-tuned model.
"""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from emojitune.artifacts import (
    OutputDirectory,
    UserError,
    checked_record,
    command,
    inputs_of,
    locked,
    outputs_of,
    read_jsonl,
    remove_leftovers,
    write_json,
)
from emojitune.command_line import add_output_dir, exit_status, model_name, number
from emojitune.launching import missing_processes, start_processes

SCRIPT = "03_train_model.py"

# LoRA: on the shipped data's training split, split once more so that its validation split stays unseen, 5e-4 gave 70.0%
# exact accuracy of 614 replies after two epochs, 10.2 points above the n-gram model; 2e-4 had been 8.0 points above it
# on the validation split itself; 1e-3 was behind after one epoch (49.5% against 57.2%). Of three epochs on such a split
# the second was the best: 73.2% of 620, 12.6 points above the n-gram model, the third's loss 20% worse. Full, as well:
# 1e-4 gave 66.8% of 620, 6.2 points above the n-gram model; 2e-4 was behind after one epoch (loss of the labels 2.40
# against 1.69).
LEARNING_RATES = {"lora": 5e-4, "full": 1e-4}

# What does not change the result of a run, and so may differ when it is resumed.
NOT_SETTINGS = ("output_dir", "resume", "dry_run", "keep_checkpoints")


def parse_arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, dict]:
    """The arguments, and their defaults."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_output_dir(parser)

    what = parser.add_argument_group("what is trained")
    what.add_argument(
        "--model",
        type=model_name,
        default="embedded",
        help="embedded (Gemma 3 270M, needs no account), a hub id or a folder (default: embedded)",
    )
    what.add_argument(
        "--method",
        choices=("lora", "full"),
        default="lora",
        help="lora trains small matrices beside the weights, full the weights themselves (default: lora, which "
        "learnt more from the shipped data, in less time and memory)",
    )
    what.add_argument(
        "--train-embeddings",
        action="store_true",
        help="with --method full, train the word embeddings too (default: no; they are 63%% of Gemma's weights, and a "
        "small dataset touches few of its 262,144 words)",
    )
    what.add_argument(
        "--system-dropout",
        type=number(float, 0, 1),
        default=0.1,
        metavar="SHARE",
        help="train this share of the samples without their system prompt (default: 0.1, so that the model answers "
        "without it as well; 0 and 0.3 did no better, see benchmarks/README.md)",
    )

    how = parser.add_argument_group("how")
    how.add_argument(
        "--epochs",
        type=number(int, 1, 1000),
        default=2,
        help="passes over the training split (default: 2; on the shipped data the third overfits)",
    )
    how.add_argument(
        "--learning-rate",
        type=number(float, 0, 100, exclusive_low=True),
        help="how far a step goes (default: 5e-4 with lora, whose matrices start from zero; 1e-4 with full)",
    )
    how.add_argument(
        "--batch-size",
        type=number(int, 1, 4096),
        default=8,
        help="samples a batch (default: 8; with little data, many small steps learn more than a few large ones)",
    )
    how.add_argument(
        "--gradient-accumulation",
        type=number(int, 1, 4096),
        default=1,
        metavar="BATCHES",
        help="batches a step (default: 1; more of them, smaller, need less memory)",
    )
    how.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        help="compute parts twice rather than hold them in memory (default: no; it costs a third of the speed)",
    )
    how.add_argument(
        "--max-length",
        type=number(int, 16, 32768),
        default=512,
        metavar="TOKENS",
        help="tokens a conversation; a longer one is refused (default: 512; a tweet has about 40)",
    )
    how.add_argument(
        "--early-stopping-patience",
        type=number(int, 1, 1000),
        metavar="EPOCHS",
        help="stop after so many epochs that were no better (default: never, so that the curve shows overfitting)",
    )
    how.add_argument(
        "--seed",
        type=number(int, 0, 2**32 - 1),
        default=42,
        help="decides the order of the samples and LoRA's start (default: 42; the same seed gives the same run)",
    )

    run = parser.add_argument_group("this run")
    run.add_argument("--resume", action="store_true", help="go on from the last checkpoint of an interrupted run")
    run.add_argument(
        "--dry-run", action="store_true", help="train a few steps, foretell time, memory and disk, then stop"
    )
    run.add_argument(
        "--keep-checkpoints",
        action="store_true",
        help="keep the last two checkpoints (default: they go when the run is done)",
    )
    args = parser.parse_args(argv)
    if args.resume and args.dry_run:
        parser.error("--resume and --dry-run do not go together")
    if args.train_embeddings and args.method != "full":
        parser.error("--train-embeddings needs --method full; LoRA leaves the embeddings as they are")
    return args, vars(parser.parse_args([]))


def main(argv: Sequence[str] | None = None) -> int:
    args, defaults = parse_arguments(argv)
    if processes := missing_processes():
        return start_processes(processes, Path(__file__), sys.argv[1:] if argv is None else argv)
    output: OutputDirectory = args.output_dir
    settings = {name: value for name, value in vars(args).items() if name not in NOT_SETTINGS}
    writes = os.environ.get("RANK", "0") == "0"  # of several processes, one writes and speaks
    say = print if writes else lambda *_: None

    with locked(output, SCRIPT) if writes else contextlib.nullcontext():
        # ---- read ----------------------------------------------------------------------------------------------
        checked_record("02_split_data.py", output)
        inputs = inputs_of(output, [output.train, output.validation, output.split])
        from emojitune import resuming

        train_rows = read_jsonl(output.train, "02_split_data.py", output)
        validation_rows = read_jsonl(output.validation, "02_split_data.py", output)

        import torch  # from here on it takes seconds

        from emojitune import model as models
        from emojitune.frozen import hold_in_bf16

        # ---- the model -----------------------------------------------------------------------------------------
        if args.resume:
            settings = resuming.resumed_settings(output, settings, defaults, inputs, command(SCRIPT, output))
            args = argparse.Namespace(**{**vars(args), **settings})
        learning_rate = args.learning_rate or LEARNING_RATES[args.method]
        base = models.find_base_model(args.model)
        device = models.choose_device()
        bf16 = models.choose_dtype(device) == torch.bfloat16
        products = models.choose_products(device)
        # Weights that learn are in fp32, bf16 rounds the arithmetic only: a small step would vanish in bf16 weights.
        # On a CPU, frozen ones stay as they come. FSDP wants all of one kind, and saves memory in its own way.
        as_they_come = device.type == "cpu" and not models.shards_weights()
        model = models.load_model(base.folder, torch.device("cpu"), "auto" if as_they_come else torch.float32)
        if args.method == "lora":
            model.requires_grad_(False)
        elif not args.train_embeddings:
            model.get_input_embeddings().weight.requires_grad_(False)
        if as_they_come:
            hold_in_bf16(model, products)
        tokenizer = models.load_tokenizer(base.folder)
        models.give_back_memory()
        precision = "bf16" if bf16 else "fp32"
        if args.method == "lora" and as_they_come and products == torch.bfloat16:
            precision += ", frozen weights multiplied in bf16,"
        say(f"Base model {base.name}: {model.num_parameters() / 1e6:.0f} M weights, {precision} on {device}")

        from datasets import Dataset
        from peft import LoraConfig
        from transformers import EarlyStoppingCallback, PrinterCallback, set_seed
        from trl import SFTConfig

        from emojitune import training

        watch = training.Stopwatch()
        set_seed(args.seed)
        lora = None
        if args.method == "lora":
            lora = LoraConfig(
                r=16,  # the rank of the matrices beside each linear layer; 3.8 M weights in all
                lora_alpha=32,
                lora_dropout=0.0,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            )

        # ---- the trainer ---------------------------------------------------------------------------------------
        # The chat keeps no history, so each turn must be right by itself as well. On a split of the training split,
        # 65.2% of 620 replies were right after one epoch with them, a quarter longer, and 61.5% without.
        alone = training.later_turns_alone(train_rows)
        train_messages = training.without_some_systems([*train_rows, *alone], args.system_dropout, args.seed)
        steps_an_epoch = training.steps_an_epoch(len(train_messages), args.batch_size * args.gradient_accumulation)
        config = SFTConfig(
            output_dir=str(output.checkpoints),
            num_train_epochs=args.epochs,
            max_steps=training.DRY_RUN_STEPS if args.dry_run else -1,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",  # large steps first, then ever smaller ones to settle
            warmup_steps=0.05,  # of all steps: the optimizer's averages mean nothing before
            per_device_train_batch_size=args.batch_size,
            per_device_eval_batch_size=2 * args.batch_size,  # without gradients twice as much fits
            gradient_accumulation_steps=args.gradient_accumulation,
            activation_checkpointing=args.gradient_checkpointing,
            max_length=args.max_length,
            assistant_only_loss=True,  # every reply carries loss, and nothing else
            eval_on_start=not (args.dry_run or args.resume),  # the point before training
            eval_strategy="no" if args.dry_run else "epoch",
            save_strategy="no" if args.dry_run else "epoch",
            save_total_limit=2,
            load_best_model_at_end=not args.dry_run,
            metric_for_best_model="eval_label_loss",
            greater_is_better=False,
            logging_steps=max(1, steps_an_epoch // 10),
            logging_nan_inf_filter=False,  # a NaN must be seen
            bf16=bf16,
            use_cpu=device.type == "cpu",
            dataloader_pin_memory=device.type == "cuda",
            ddp_find_unused_parameters=False,
            seed=args.seed,
            report_to="none",
            disable_tqdm=True,  # our own bar shows the losses as well
        )
        stop, divergence = training.StopOnSignal(), training.StopOnDivergence()
        callbacks = [training.ProgressBar(), divergence, stop]
        if not args.dry_run:
            callbacks.append(training.LossHistory(output.loss_history))
        if args.early_stopping_patience:
            callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
        with models.quiet_transformers(), training.quiet_datasets():
            trainer = training.LabelLogitsTrainer(
                model=model,
                args=config,
                train_dataset=Dataset.from_list([{"messages": messages} for messages in train_messages]),
                eval_dataset=Dataset.from_list([{"messages": row["messages"]} for row in validation_rows]),
                processing_class=tokenizer,
                peft_config=lora,
                callbacks=callbacks,
                end_tokens=models.stop_tokens(tokenizer),
                products=products if as_they_come else torch.float32,
            )
        trainer.remove_callback(PrinterCallback)
        stops = models.stop_tokens(tokenizer)
        training.check_supervision(trainer.train_dataset, tokenizer, stops, args.max_length)
        say("One sample as the model sees it, what carries loss in 【 】:")
        say(f"  {training.marked(trainer.train_dataset[0], tokenizer)}")
        tokenizer_files = tempfile.TemporaryDirectory()
        tokenizer.save_pretrained(tokenizer_files.name)
        trainer.forget_tokenizer()
        tokenizer = None
        models.give_back_memory()
        with_turns = f" and {len(alone)} later turns of conversations by themselves" if alone else ""
        trained_weights = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        say(
            f"Training {trained_weights / 1e6:.1f} M weights ({args.method}, learning rate {learning_rate:g}) on "
            f"{len(train_rows)} samples{with_turns}, {args.epochs} epochs; measuring on {len(validation_rows)}"
        )
        if args.dry_run:
            say(training.foretell(trainer, steps_an_epoch * args.epochs, args.epochs, args.method == "full", output))
            return 0

        # ---- train ---------------------------------------------------------------------------------------------
        checkpoint = None
        if args.resume:
            checkpoint = resuming.last_checkpoint(output, command(SCRIPT, output))
            say(f"Resuming after step {checkpoint.name.removeprefix('checkpoint-')}")
        if writes:
            remove_leftovers(output.training)
            if output.run.exists():
                say(f"Replacing the run that {output.run} describes")
            resuming.prepare_folder(output, checkpoint, {"settings": settings, "inputs": inputs})
        stop.on_signals()
        with models.quiet_transformers():  # it would warn of tied weights, which a checkpoint holds once
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

        # ---- write ---------------------------------------------------------------------------------------------
        epochs = training.finished_epochs(trainer.state)
        best = min(epochs, key=lambda epoch: epoch["label_loss"], default=None)
        resume = f"{command(SCRIPT, output)} --resume"
        if best is None and divergence.diverged:
            raise UserError(
                f"the loss exploded before the first epoch ended, so no model is kept; lower --learning-rate "
                f"(it was {learning_rate:g}), and look at the curve: {command('04_plot_loss.py', output)}"
            )
        if best is None:
            say(f"Stopped at step {trainer.state.global_step}, before the first epoch ended; go on with: {resume}")
            return stop.status
        training.save_model(trainer, Path(tokenizer_files.name), stops, output)
        if writes:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            record = {
                "inputs": inputs,
                "outputs": outputs_of(output, [*sorted(output.model.iterdir()), output.loss_history]),
                "settings": {**settings, "learning_rate": learning_rate},
                "base_model": {"name": base.name, "weights": base.weights},
                "system_prompt": training.system_prompt_of(train_rows),
                "labels": training.labels_of(train_rows),
                "device": str(device),
                "dtype": precision,
                "processes": trainer.accelerator.num_processes,
                "ended": "diverged" if divergence.diverged else "interrupted" if stop.asked else "finished",
                "best_epoch": best["epoch"],
                "epochs": epochs,
                "trained_weights": trained_weights,
                "seconds": round(watch.seconds, 1),
                "tokens_a_second": round(trainer.tokens_trained / watch.seconds, 1),
                "peak_memory_bytes": models.peak_memory(),
                "versions": training.package_versions(),
            }
            write_json(output.run, record)
            if not (args.keep_checkpoints or stop.asked):
                shutil.rmtree(output.checkpoints, ignore_errors=True)

        if trainer.accelerator.num_processes > 1:
            trainer.accelerator.wait_for_everyone()
            trainer.accelerator.end_training()  # left to the exit, gloo's threads abort the process now and then

        # ---- say what was written, and what is next ------------------------------------------------------------
        say(
            f"Best epoch {best['epoch']}: on validation, loss of the labels {best['label_loss']:.3f}, "
            f"exact accuracy {best['exact_accuracy']:.1%}"
        )
        last = epochs[-1]
        if last["epoch"] > best["epoch"]:
            worse = last["label_loss"] / best["label_loss"] - 1
            say(f"The last, {last['epoch']}, was {worse:.0%} worse; the best epoch's weights are kept")
        if divergence.diverged:
            say("After that the loss exploded, and training stopped; lower --learning-rate")
        memory = models.peak_memory() / 1e9
        say(f"Wrote {output.model} and {output.run} in {watch.seconds:.0f} s, {memory:.1f} GB of memory at the peak")
        if stop.asked:
            say(f"Stopped as asked at step {trainer.state.global_step}; go on with: {resume}")
            return stop.status
        say(f"Next: {command('04_plot_loss.py', output)}")
        return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
