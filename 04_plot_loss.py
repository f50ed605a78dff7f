"""Step 4: draw the loss curves, and say in words what they mean.

    uv run 04_plot_loss.py

Training loss falls as long as the model learns anything, if only by heart. Validation loss falls as long as it learns
something that holds for other samples too. Where the two part, overfitting begins.
"""

import argparse
import sys
from collections.abc import Sequence

from emojitune.artifacts import (
    OutputDirectory,
    checked_record,
    command,
    inputs_of,
    locked,
    outputs_of,
    read_jsonl,
    remove_leftovers,
    write_json,
)
from emojitune.command_line import add_output_dir, exit_status

SCRIPT = "04_plot_loss.py"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_output_dir(parser)
    parser.add_argument("--show", action="store_true", help="open a window as well (default: only write the picture)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    output: OutputDirectory = args.output_dir
    with locked(output, SCRIPT):
        # ---- read ----------------------------------------------------------------------------------------------
        rows = read_jsonl(output.loss_history, "03_train_model.py", output, torn_end=True)
        split = checked_record("02_split_data.py", output)
        finished = output.run.exists()
        inputs = [output.loss_history, output.split]
        if finished:
            checked_record("03_train_model.py", output)
            inputs.append(output.run)

        # ---- diagnose ------------------------------------------------------------------------------------------
        from emojitune.diagnosis import curve_of, diagnose

        curve = curve_of(rows)
        diagnosis = diagnose(curve, split["validation"], len(split["train_per_label"]))

        # ---- draw and write ------------------------------------------------------------------------------------
        from emojitune import figures

        remove_leftovers(output.diagnosis.parent)
        kept = diagnosis.best_epoch if finished else None
        figures.save(figures.loss_figure(curve, diagnosis.title, kept), output.loss_picture)
        write_json(
            output.diagnosis,
            {
                "inputs": inputs_of(output, inputs),
                "outputs": outputs_of(output, [output.loss_picture]),
                **diagnosis.as_json(),
                "curve": {"training": curve.training, "validation": curve.validation},
            },
        )

    # ---- say -----------------------------------------------------------------------------------------------------
    print("epoch   training loss   validation loss   exact accuracy")
    training = dict(curve.training)
    for epoch, loss, accuracy in curve.validation:
        print(f"{epoch:5.0f}   {_number(training.get(epoch)):>13}   {_number(loss):>15}   {accuracy:14.1%}")
    print(f"\n{diagnosis.title}")
    for sentence in diagnosis.findings:
        print(f"  {sentence}")
    for sentence in diagnosis.advice:
        print(f"→ {sentence}")
    if not finished:
        print("The run has not finished, so nothing is kept of it yet")
    print(f"\nWrote {output.loss_picture} and {output.diagnosis.name}")
    print(f"Next: {command('05_test_base.py', output)}")
    if args.show:
        figures.show(figures.loss_figure(curve, diagnosis.title, kept))
    return 0


def _number(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.3f}"


if __name__ == "__main__":
    sys.exit(exit_status(main))
