"""Step 2: split the dataset into what the model learns from and what it is measured with.

    uv run 02_split_data.py

A model that is asked what it was taught looks better than it is. So one sample in five is held out for validation, the
same share of every label, and nothing in it has a near duplicate in the training split.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emojitune.artifacts import (
    OutputDirectory,
    UserError,
    hash_files,
    load_verified_manifest,
    lock_output_dir,
    read_jsonl,
    rerun_command,
    sha256_of,
    write_json,
    write_jsonl,
)
from emojitune.cli import add_output_dir, bounded, run_main
from emojitune.data.samples import Sample, count_labels, filter_by_labels, filter_by_turns, load_samples, map_to_groups
from emojitune.data.validation import drop, format_problems, validate

SCRIPT = "02_split_data.py"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog="example: uv run 02_split_data.py --validation-fraction 0.3"
    )
    add_output_dir(parser)
    parser.add_argument(
        "--validation-fraction",
        type=bounded(float, 0.01, 0.9),
        default=0.2,
        metavar="SHARE",
        help="the share held out to measure with (default: 0.2; less would measure little, more would teach little)",
    )
    parser.add_argument(
        "--seed",
        type=bounded(int, 0, 2**32 - 1),
        default=42,
        help="decides which samples are held out (default: 42; the same seed gives the same split on every machine)",
    )
    parser.add_argument(
        "--validation-data",
        type=existing_file,
        metavar="FILE",
        help="measure with the samples of this file instead, and learn from the whole dataset; it is read and checked "
        "with the flags of step 1, and --turns, --labels and --groups choose from it",
    )
    return parser.parse_args(argv)


def existing_file(text: str) -> str:
    """An argparse type: a file, looked for before anything is locked or written."""
    if not os.path.isfile(text):  # noqa: PTH113 - it is False for names that Path refuses with an error
        raise argparse.ArgumentTypeError(f"there is no file {text[:100]!r}; name one to measure with")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    output: OutputDirectory = args.output_dir

    # heavy imports: after the arguments, so that --help answers at once
    from emojitune.data.splitting import near_duplicate_samples, split

    with lock_output_dir(output, SCRIPT):
        # ---- read --------------------------------------------------------------------------------------------------
        report = load_verified_manifest("01_prepare_data.py", output)
        samples = load_samples(read_jsonl(output.dataset, "01_prepare_data.py", output))
        source = report["data"]["name"]
        if Path(source).is_file() and sha256_of(Path(source)) != report["data"]["sha256"]:
            again = rerun_command("01_prepare_data.py", output, "--data", Path(source).as_posix())
            print(f"Note: {source} has changed since step 1; to use it as it is now, with your other flags: {again}")

        # ---- split -------------------------------------------------------------------------------------------------
        across: list[int] = []  # validation samples with a near duplicate in the training split
        if args.validation_data:
            train, validation = samples, read_validation_data(args.validation_data, report["flags"])
            pairs = near_duplicate_samples([*train, *validation])
            across = sorted({pair.second - len(train) for pair in pairs if pair.first < len(train) <= pair.second})
        else:
            train, validation = split(samples, args.validation_fraction, args.seed)
        train_counts, validation_counts = (count_labels(s.label for s in part) for part in (train, validation))

        # ---- write -------------------------------------------------------------------------------------------------
        output.split.unlink(missing_ok=True)
        write_jsonl(output.train, (sample.as_json() for sample in train))
        write_jsonl(output.validation, (sample.as_json() for sample in validation))
        manifest = {
            "inputs": hash_files(output, [output.dataset]),
            "outputs": hash_files(output, [output.train, output.validation]),
            **{name: value for name, value in vars(args).items() if name != "output_dir"},
            "train": len(train),
            "validation": len(validation),
            "train_per_label": train_counts,
            "validation_per_label": validation_counts,
            "near_duplicates_across": len(across),
        }
        write_json(output.split, manifest)

    # ---- say what was written, and what is next --------------------------------------------------------------------
    print("   train   validation   label")
    for label in count_labels([*train_counts, *validation_counts]):
        print(f"{train_counts.get(label, 0):8,}   {validation_counts.get(label, 0):10,}   {label}")
    print(f"{len(train):8,}   {len(validation):10,}   all")
    if not validation:
        print("No label has two samples without near duplicates, so nothing could be held out; add samples, raise")
        print("step 1's --per-label or --max-samples, or take out what all texts share, and repeat step 1")
    if across:
        numbers = ", ".join(str(validation[index].number) for index in across[:20])
        print(f"Validation samples with near duplicates in the training split: {len(across)} (the first: {numbers})")
    if unseen := validation_counts.keys() - train_counts.keys():
        print(f"Labels that the training split lacks, so that no model can learn them: {', '.join(sorted(unseen))}")
    print(f"Wrote {output.train}, {output.validation.name} and {output.split.name}")
    if validation:
        print(f"Next: {rerun_command('03_train_model.py', output)}")
    return 0


def read_validation_data(source: str, flags: dict[str, Any]) -> list[Sample]:
    """The samples of the user's own validation file, read, checked and chosen by the flags of step 1.

    Raises:
        UserError: if it cannot be read, or has problems.
    """
    from emojitune.data.reading import read_dataset
    from emojitune.model.loading import token_lengths

    options = {name: flags[name] for name in ("encoding", "text_column", "label_column", "system_column")}
    try:
        rows, taken = read_dataset(source, **options)
        print(f"Read {source}: {len(rows):,} samples; taken: {taken}")
        samples, problems = validate(rows, flags["max_length"], token_lengths)
        samples = drop(source, samples, problems, flags["drop_duplicates"], flags["drop_invalid"])
        samples = filter_by_turns(samples, flags["turns"])
        samples = map_to_groups(samples) if flags["groups"] else samples
    except UserError as error:
        raise UserError(f"{error}\n(it is read with the flags that step 1 had, so change the file)") from None
    if problems:
        print(format_problems(problems))
    samples = filter_by_labels(samples, flags["labels"]) if flags["labels"] else samples
    if not samples:
        raise UserError(f"the flags of step 1 (--turns, --labels) leave no sample of {source}; name another file")
    return samples


if __name__ == "__main__":
    sys.exit(run_main(main))
