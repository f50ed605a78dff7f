"""Step 2: split the dataset into what the model learns from and what it is measured with.

    uv run 02_split_data.py

A model that is asked what it was taught looks better than it is. So one sample in five is held back for validation,
the same share of every label, and nothing in it has a near duplicate in the training split.
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
    write_jsonl,
)
from emojitune.command_line import add_output_dir, exit_status, number

SCRIPT = "02_split_data.py"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_output_dir(parser)
    parser.add_argument(
        "--validation-fraction",
        type=number(float, 0.01, 0.9),
        default=0.2,
        metavar="SHARE",
        help="the share held back to measure with (default: 0.2; less would measure little, more would teach little)",
    )
    parser.add_argument(
        "--seed",
        type=number(int, 0, 2**32 - 1),
        default=42,
        help="decides which samples are held back (default: 42; the same seed gives the same split on every machine)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    output: OutputDirectory = args.output_dir

    # ---- read --------------------------------------------------------------------------------------------------
    with locked(output, SCRIPT):
        checked_record("01_prepare_data.py", output)
        from emojitune import dataset
        from emojitune.report import counts_in_order
        from emojitune.splitting import split

        samples = dataset.load_samples(read_jsonl(output.dataset, "01_prepare_data.py", output))

        # ---- split ---------------------------------------------------------------------------------------------
        train, validation = split(samples, args.validation_fraction, args.seed)

        # ---- write ---------------------------------------------------------------------------------------------
        remove_leftovers(output.split.parent)
        output.split.unlink(missing_ok=True)
        write_jsonl(output.train, (sample.as_json() for sample in train))
        write_jsonl(output.validation, (sample.as_json() for sample in validation))
        counts = {
            "train_per_label": counts_in_order(sample.label for sample in train),
            "validation_per_label": counts_in_order(sample.label for sample in validation),
        }
        write_json(
            output.split,
            {
                "inputs": inputs_of(output, [output.dataset, output.report]),
                "outputs": outputs_of(output, [output.train, output.validation]),
                "seed": args.seed,
                "validation_fraction": args.validation_fraction,
                "train": len(train),
                "validation": len(validation),
                **counts,
            },
        )

    # ---- say what was written, and what is next ----------------------------------------------------------------
    print("label   train   validation")
    for label in counts_in_order(sample.label for sample in samples):
        held_back = counts["validation_per_label"].get(label, 0)
        print(f"{label}   {counts['train_per_label'].get(label, 0):8,}   {held_back:10,}")
    print(f"all  {len(train):8,}   {len(validation):10,}")
    if not validation:
        print("No label has two samples, so nothing could be held back; add samples before training")
    print(f"Wrote {output.train}, {output.validation.name} and {output.split.name}")
    print(f"Next: {command('03_train_model.py', output)}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
