"""Step 4: draw the loss curves of a run, finished or not, and say in words what they mean; or compare several runs.

    uv run 04_plot_loss.py

Training loss falls as long as the model learns anything, if only by heart. Validation loss falls as long as it learns
something that holds for other samples too. Where the two part, overfitting begins.
"""

import argparse
import contextlib
import sys
import webbrowser
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from emojitune.artifacts import (
    OutputDirectory,
    UserError,
    hash_files,
    load_verified_manifest,
    lock_output_dir,
    read_json,
    read_jsonl,
    rerun_command,
    write_json,
)
from emojitune.cli import add_output_dir, output_directory, run_main
from emojitune.data.samples import load_samples
from emojitune.reporting.diagnosis import LossCurve, diagnose, load_curve
from emojitune.stats import ci_half_width

SCRIPT, SPLIT, TRAIN = "04_plot_loss.py", "02_split_data.py", "03_train_model.py"


@dataclass(frozen=True)
class Run:
    """The run in an output directory. `record` is run.json, empty until then; the settings include sample counts."""

    output: OutputDirectory
    curve: LossCurve
    record: dict[str, Any]
    settings: dict[str, Any]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="example: uv run 04_plot_loss.py outputs outputs-lr1e-3 outputs-small",
    )
    parser.add_argument(
        "runs",
        nargs="*",
        type=output_directory,
        metavar="DIR",
        help="output directories; several are drawn in one picture and compared in a table (default: --output-dir)",
    )
    add_output_dir(parser)
    parser.add_argument("--show", action="store_true", help="open the picture as well (default: only write it)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)

    # Heavy imports: after the arguments, so that --help answers at once.
    from emojitune.reporting.figures import loss_figure, runs_figure, save

    # ---- read: loss histories ----------------------------------------------------------------------------------------
    runs = [read_run(output) for output in {run.root: run for run in args.runs or [args.output_dir]}.values()]
    run, output, several = runs[0], runs[0].output, len(runs) > 1

    # ---- diagnose and draw -------------------------------------------------------------------------------------------
    if several:
        picture = output.loss_plot.with_name("compare.png")
        figure = runs_figure({str(run.output.root): run.curve for run in runs})
    else:
        picture = output.loss_plot
        counts = run.settings["validation samples"], run.settings["labels"]
        diagnosis = diagnose(run.curve, *counts, run.settings, output)
        figure = loss_figure(run.curve, diagnosis.title, run.record.get("best_epoch"))

    # ---- write -------------------------------------------------------------------------------------------------------
    with contextlib.ExitStack() as stack:
        # Step 3 holds the lock while it trains. All is written atomically, so its curve can be drawn all the same.
        with contextlib.suppress(UserError):
            stack.enter_context(lock_output_dir(output, SCRIPT))
        save(figure, picture)
        if not several:
            inputs = hash_files(output, [output.loss_history])
            write_json(output.diagnosis, {"inputs": inputs, **asdict(diagnosis), "curve": asdict(run.curve)})

    # ---- say what it means, and what is next -------------------------------------------------------------------------
    if several:
        print_comparison(runs)
    else:
        training = dict(run.curve.training)
        print("epoch   training loss   validation loss   exact accuracy")
        for epoch, loss, accuracy in run.curve.validation:
            print(f"{epoch:5.0f}   {number(training.get(epoch)):>13}   {number(loss):>15}   {accuracy:14.1%}")
        print(f"\n{diagnosis.title}", *diagnosis.findings, sep="\n  ")
        print(*(f"→ {advice}" for advice in diagnosis.advice), sep="\n")
    print(f"\nWrote {picture}")
    if not (several or run.record or run.curve.diverged):
        print(f"The run has not finished; this is its curve so far. Look again with: {rerun_command(SCRIPT, output)}")
    elif run.record and not several:
        print(f"Next: {rerun_command('05_test_base.py', output)}")
    if args.show and not webbrowser.open(picture.resolve().as_uri()):
        raise UserError(f"nothing can open a picture here; look at {picture}")
    return 0


def read_run(output: OutputDirectory) -> Run:
    """The run in an output directory. Raises UserError if it has logged nothing, or if its data has changed since."""
    rows = read_jsonl(output.loss_history, TRAIN, output, allow_truncated_last_line=True)
    record = load_verified_manifest(TRAIN, output) if output.run.exists() else {}
    load_verified_manifest(SPLIT, output, inputs=False)
    train, validation = (load_samples(read_jsonl(path, SPLIT, output)) for path in (output.train, output.validation))
    labels = {label for sample in train for label in sample.labels}
    counts = {"training samples": len(train), "validation samples": len(validation), "labels": len(labels)}
    started = record or read_json(output.settings, TRAIN, output)
    again = rerun_command(TRAIN, output)
    if started["inputs"] != hash_files(output, [output.train, output.validation]):
        raise UserError(f"{output.loss_history} is of a run on another split than {output.train}; train again: {again}")
    try:
        return Run(output, load_curve(rows), record, started["settings"] | counts)
    except (KeyError, TypeError):
        raise UserError(f"{output.loss_history} is not of this version of {TRAIN}; run again: {again}") from None


def print_comparison(runs: Sequence[Run]) -> None:
    """A column for each run: what differs between them, then what came out."""
    table = {"": [run.output.root for run in runs]}
    for name in dict.fromkeys(name for run in runs for name in run.settings):
        values = [run.settings.get(name, "-") for run in runs]
        if any(value != values[0] for value in values):
            table[name.replace("_", " ")] = values
    outcomes = [outcome(run) for run in runs]
    table |= {name: [values[name] for values in outcomes] for name in outcomes[0]}
    rows = [[name, *map(str, values)] for name, values in table.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        print(name.ljust(widths[0]), *map(str.rjust, cells, widths[1:]), sep="   ")
    points = 100 * ci_half_width(min(run.settings["validation samples"] for run in runs))
    print(f"\nWith so many validation samples an accuracy is known to about ±{points:.0f} points.")
    if len({run.output.validation.read_bytes() for run in runs}) > 1:
        print("The runs have different validation samples, so their losses and accuracies do not compare.")


def outcome(run: Run) -> dict[str, str]:
    best = run.curve.best
    return {
        "best epoch": str(best.number) if best else "-",
        "training loss": number(best and best.training),
        "validation loss": number(best and best.validation),
        "exact accuracy": f"{best.accuracy:.1%}" if best else "-",
        "minutes": f"{run.record['seconds'] / 60:.1f}" if run.record.get("seconds") else "-",
        "ended": run.record.get("ended", "diverged" if run.curve.diverged else "not yet"),
    }


def number(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.3f}"


if __name__ == "__main__":
    sys.exit(run_main(main))
