"""All steps in order: from the dataset to a fine-tuned model, and three tweets answered before and after.

    uv run run_pipeline.py

Each command is printed before it runs, so that it can be run again by hand with other flags.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from emojitune.artifacts import OutputDirectory, read_json
from emojitune.command_line import add_output_dir, exit_status, model_name, number

TWEETS = (
    "推しのライブ、最前列当たった！！手が震えてる",
    "終電逃した。雨。スマホの充電2%",
    "おばあちゃんが編んだマフラー、去年亡くなってから初めて巻いた",
)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_output_dir(parser)
    parser.add_argument(
        "--epochs", type=number(int, 1, 1000), help="for 03: passes over the training split (default: 2)"
    )
    parser.add_argument(
        "--model", type=model_name, help="for 03 and 05: embedded, a hub id or a folder (default: embedded)"
    )
    parser.add_argument(
        "--max-samples",
        type=number(int, 1, 10**9),
        metavar="N",
        help="for 01: N samples, evenly over the labels (default: all; 250 take a tenth of the time)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    output: OutputDirectory = args.output_dir
    model = ["--model", args.model] if args.model else []
    epochs = ["--epochs", str(args.epochs)] if args.epochs else []
    samples = ["--max-samples", str(args.max_samples)] if args.max_samples else []
    steps = (
        ["01_prepare_data.py", *samples],
        ["02_split_data.py"],
        ["03_train_model.py", *model, *epochs],
        ["04_plot_loss.py"],
        ["05_test_base.py", *model, *(["--quick"] if args.max_samples else [])],
    )
    for step in steps:
        status = run([*step, *where(output)])
        if status:
            return status  # the step has said why
    run_record = read_json(output.run, "03_train_model.py", output)
    system = ["--system", run_record["system_prompt"]] if run_record["system_prompt"] else []
    return run(["06_test_finetuned_single.py", "--compare", *system, *where(output)], "\n".join(TWEETS))


def where(output: OutputDirectory) -> list[str]:
    return [] if output.root == Path("outputs") else ["--output-dir", str(output.root)]


def run(command: list[str], text: str | None = None) -> int:
    """Run one step as a process of its own, and return its exit status. `text` is typed into it, and shown."""
    shown = shlex.join(["uv", "run", *command])
    print(f"\n$ {shown}" + (" <<tweets\n" + text if text else ""), flush=True)
    script = Path(__file__).parent / command[0]
    done = subprocess.run([sys.executable, str(script), *command[1:]], input=text, encoding="utf-8" if text else None)
    return 128 - done.returncode if done.returncode < 0 else done.returncode


if __name__ == "__main__":
    sys.exit(exit_status(main))
