"""All steps in order: from the dataset to a fine-tuned model, and three tweets answered before and after.

    uv run run_pipeline.py --quick

Each command is printed before it runs, so that it can be run again by hand with other flags.
"""

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from emojitune.artifacts import OutputDirectory, read_json, rerun_command, system_flag, write_json
from emojitune.cli import add_device, add_output_dir, bounded, model_name, run_main

TWEETS = (
    "明日からやっと連休！どこ行こう",
    "また上司に同じこと聞かれた。さっき言ったよね",
    "もう3時か…寝れない",
)

SMALL_SET = 10  # samples per label: the fixed small set of the shipped data
QUICK_EPOCHS = 3  # so few samples need several


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog="example: uv run run_pipeline.py --quick --output-dir outputs-quick"
    )
    add_output_dir(parser)
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{SMALL_SET} samples per label and a short evaluation: a few minutes, not half an hour (default: no)",
    )
    parser.add_argument(
        "--epochs",
        type=bounded(int, 1, 1000),
        help=f"for 03: passes over the training split (default: its own; {QUICK_EPOCHS} with --quick)",
    )
    parser.add_argument(
        "--model", type=model_name, help="for 03 and 05: embedded, a hub id or a folder (default: embedded)"
    )
    parser.add_argument(
        "--max-samples",
        type=bounded(int, 1, 10**9),
        metavar="N",
        help="for 01: N samples, evenly over the labels; 05 then runs with --quick (default: all)",
    )
    add_device(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    output: OutputDirectory = args.output_dir
    start = time.perf_counter()
    model = ["--model", args.model] if args.model else []
    device = ["--device", args.device] if args.device != "auto" else []
    epochs = ["--epochs", str(args.epochs)] if args.epochs else []
    samples = ["--max-samples", str(args.max_samples)] if args.max_samples else []
    if args.quick:
        print(
            f"The quick way: {SMALL_SET} samples per label, and an evaluation without running conversations and other "
            "system prompts. Expect a model that has seen too little: that is the first lesson."
        )
        samples = [*samples, "--per-label", str(SMALL_SET)]
        epochs = epochs or ["--epochs", str(QUICK_EPOCHS)]
    steps = (
        ["01_prepare_data.py", *samples],
        ["02_split_data.py"],
        ["03_train_model.py", *model, *epochs, *device],
        ["04_plot_loss.py"],
        ["05_test_base.py", *model, *device, *(["--quick"] if args.quick or args.max_samples else [])],
    )
    minutes = {}
    for script, *flags in steps:
        step_start = time.perf_counter()
        status = run_step(output, script, flags)
        if status:
            return status  # the step has said why
        minutes[script] = round((time.perf_counter() - step_start) / 60, 2)
    run = read_json(output.run, "03_train_model.py", output)
    system = system_flag(run["system_prompt"]) if run["system_prompt"] else []
    status = run_step(output, "06_test_finetuned_single.py", ["--compare", *system, *device], "\n".join(TWEETS))
    total = (time.perf_counter() - start) / 60
    write_json(output.root / "pipeline.json", {"minutes": minutes, "total_minutes": round(total, 2)})
    print(f"\nDone in {total:.1f} minutes; look at {output.evaluation / 'report.html'}")
    if args.quick and not status:
        report = read_json(output.report, "01_prepare_data.py", output)
        whole = run["seconds"] / 60 * report["read"] / report["samples"] / (args.epochs or QUICK_EPOCHS)
        print(
            f"All {report['read']:,} samples instead of {report['samples']} train for about {whole:.0f} minutes on "
            f"this machine: {shlex.join(['uv', 'run', 'run_pipeline.py', *model, *device])}"
        )
    return status


def run_step(output: OutputDirectory, script: str, flags: list[str], text: str | None = None) -> int:
    """Run one step as a process of its own; its exit status. `text` is typed into it, and shown."""
    command = rerun_command(script, output, *flags)
    print(f"\n$ {command}" + (f" <<tweets\n{text}\ntweets" if text else ""), flush=True)
    arguments = [sys.executable, str(Path(__file__).parent / script), *shlex.split(command)[3:]]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE if text else None, encoding="utf-8") as step:
        try:
            step.communicate(text)
        except KeyboardInterrupt as stop:  # not subprocess.run, which would kill it: training saves a checkpoint first
            if stop.args:  # SIGTERM came to this process alone, Ctrl+C to both
                step.terminate()
            step.wait()
            raise
    if step.returncode < 0:
        print(
            f"error: {script} was killed by signal {-step.returncode}; 9 often means too little memory", file=sys.stderr
        )
    return 128 - step.returncode if step.returncode < 0 else step.returncode


if __name__ == "__main__":
    sys.exit(run_main(main))
