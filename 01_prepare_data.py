"""Step 1: check and normalise the dataset, report on it, draw it.

    uv run 01_prepare_data.py

A model learns what the data shows, its mistakes included, so every sample is looked at before any is used. The report
says how many samples each label has, and what a training and a validation split of them could teach and measure.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from emojitune.artifacts import (
    OutputDirectory,
    UserError,
    hash_files,
    lock_output_dir,
    rerun_command,
    sha256_of,
    write_json,
    write_jsonl,
)
from emojitune.cli import add_output_dir, bounded, run_main
from emojitune.data.emojis import fully_qualified
from emojitune.data.samples import Sample, balance, filter_by_labels, filter_by_turns, map_to_groups, subsample
from emojitune.data.validation import SHOWN_PROBLEMS, drop, format_problems, validate

SCRIPT = "01_prepare_data.py"

KEPT_PAIRS = 1000  # of near duplicates, in report.json


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="example: uv run 01_prepare_data.py --data tweets.csv --label-column mood --drop-duplicates",
    )
    add_output_dir(parser)

    source = parser.add_argument_group("the dataset")
    source.add_argument(
        "--data",
        default="training_data_emotion_jp.json",
        metavar="FILE",
        help="JSON, JSONL, CSV, TSV or Parquet, also gzipped, or a dataset of the hub (owner/name), as conversations "
        "or as a table with text and label (default: training_data_emotion_jp.json)",
    )
    source.add_argument("--encoding", help="cp932 for example (default: UTF-8, or what the file's first bytes say)")
    for column in ("text", "label", "system"):
        source.add_argument(f"--{column}-column", metavar="NAME", help="of a table (default: found by common names)")
    source.add_argument("--drop-duplicates", action="store_true", help="drop exact repeats; texts with two labels pass")
    source.add_argument("--drop-invalid", action="store_true", help="drop every sample that would be refused")
    source.add_argument(
        "--max-length",
        type=bounded(int, 16, 32768),
        default=512,
        metavar="TOKENS",
        help="refuse longer conversations, in tokens of Gemma's; step 3 checks again with those of its --model "
        "(default: 512; a tweet has about 40)",
    )

    choice = parser.add_argument_group("which samples (default: all of them)")
    choice.add_argument("--max-samples", type=bounded(int, 1, 10**9), metavar="N", help="N, evenly over the labels")
    choice.add_argument(
        "--turns", choices=("single", "multi", "all"), default="all", help="per conversation: 1, more, all"
    )
    choice.add_argument(
        "--per-label", type=bounded(int, 1, 10**9), metavar="N", help="at most N of each; 10 takes the fixed small set"
    )
    choice.add_argument("--weights", type=label_weights, metavar="😀=3,😴=0.5", help="so many times as many of a label")
    which = choice.add_mutually_exclusive_group()
    which.add_argument("--labels", type=label_list, metavar="😀,😭", help="only these; fewer are easier to learn")
    which.add_argument("--groups", action="store_true", help="one emoji for each emotion group, 9 instead of 25")
    return parser.parse_args(argv)


def label_list(text: str) -> list[str]:
    """An argparse type: labels with commas between them, emojis in their fully qualified form."""
    labels = [fully_qualified(part.strip()) for part in text.split(",")]
    if not all(labels):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty label; write 😀,😭 for example")
    return labels


def label_weights(text: str) -> dict[str, float]:
    """An argparse type: label=weight with commas between them."""
    weights = {}
    for part in text.split(","):
        label, _, weight = part.rpartition("=")
        if not label.strip():
            raise argparse.ArgumentTypeError(f"{part!r} is no label with its weight; write 😀=3,😴=0.5 for example")
        weights[fully_qualified(label.strip())] = bounded(float, 0, 1000, exclusive_low=True)(weight)
    return weights


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    output: OutputDirectory = args.output_dir

    # heavy imports: after the arguments, so that --help answers at once
    from emojitune.data.reading import read_dataset
    from emojitune.data.report import dataset_findings, format_near_duplicates, format_report, summarize_dataset
    from emojitune.data.splitting import near_duplicate_samples
    from emojitune.model.loading import token_lengths
    from emojitune.reporting.figures import draw_labels

    # ---- read ------------------------------------------------------------------------------------------------------
    rows, taken = read_dataset(args.data, args.encoding, args.text_column, args.label_column, args.system_column)
    print(f"Read {args.data}: {len(rows):,} samples; taken: {taken}")

    # ---- check -----------------------------------------------------------------------------------------------------
    problem_list = output.report.with_name("problems.json")
    samples, problems = validate(rows, args.max_length, token_lengths)
    try:
        samples = drop(args.data, samples, problems, args.drop_duplicates, args.drop_invalid)
    except UserError as error:
        if len(problems) <= SHOWN_PROBLEMS:
            raise
        with lock_output_dir(output, SCRIPT):
            write_json(problem_list, [str(problem) for problem in problems])
        raise UserError(f"{error}; all of them are listed in {problem_list}") from None
    if problems:
        print(format_problems(problems))
        print(f"Dropped {len(rows) - len(samples):,} of {len(rows):,} samples; problems, see above: {len(problems):,}")

    # ---- choose ----------------------------------------------------------------------------------------------------
    chosen = select_samples(samples, args)
    if len(chosen) < len(samples):
        print(f"Chose {len(chosen):,} of them, as the flags say")

    # ---- report ----------------------------------------------------------------------------------------------------
    report = summarize_dataset(chosen, token_lengths([list(sample.messages) for sample in chosen]))
    all_pairs = near_duplicate_samples(chosen)
    pairs = list(islice(all_pairs, KEPT_PAIRS))
    pair_count = len(pairs) + sum(1 for _ in all_pairs)
    print(format_report(report))
    print(format_near_duplicates(pairs, pair_count, chosen))

    # ---- write -----------------------------------------------------------------------------------------------------
    with lock_output_dir(output, SCRIPT):
        output.report.unlink(missing_ok=True)
        problem_list.unlink(missing_ok=True)
        write_jsonl(output.dataset, (sample.as_json() for sample in chosen))
        counts = report.samples_per_label
        draw_labels(counts, f"{len(chosen)} samples, {len(counts)} labels", output.labels_plot)
        source = Path(args.data)
        manifest = {
            "inputs": {},
            "outputs": hash_files(output, [output.dataset]),
            "data": {"name": args.data, "sha256": sha256_of(source) if source.is_file() else None},
            "flags": {name: value for name, value in vars(args).items() if name != "output_dir"},
            "read": len(rows),
            **asdict(report),
            "findings": dataset_findings(report),
            "near_duplicate_pairs": pair_count,
            "near_duplicates": [
                {**asdict(pair), "first": chosen[pair.first].number, "second": chosen[pair.second].number}
                for pair in pairs
            ],
            "problems": [str(problem) for problem in problems],
        }
        write_json(output.report, manifest)

    # ---- say what was written, and what is next --------------------------------------------------------------------
    print(f"Wrote {output.dataset}, {output.report.name} and {output.labels_plot.name}")
    print(f"Next: {rerun_command('02_split_data.py', output)}")
    return 0


def select_samples(samples: Sequence[Sample], args: argparse.Namespace) -> list[Sample]:
    """The samples that the flags ask for.

    Raises:
        UserError: if none is left, or if a label that they name has none.
    """
    chosen = filter_by_turns(samples, args.turns)
    chosen = map_to_groups(chosen) if args.groups else chosen
    chosen = filter_by_labels(chosen, args.labels) if args.labels else chosen
    present = {label for sample in chosen for label in sample.labels}
    missing = [label for label in [*(args.labels or []), *(args.weights or {})] if label not in present]
    if missing:
        names = ", ".join(missing)
        raise UserError(f"no sample chosen from {args.data} has the label {names}; leave it out of the flags")
    if args.per_label or args.weights:
        chosen = balance(chosen, args.per_label, args.weights)
    if args.max_samples:
        chosen = subsample(chosen, args.max_samples)
    if not chosen:
        raise UserError(f"the flags leave no sample of {args.data}; loosen them")
    return chosen


if __name__ == "__main__":
    sys.exit(run_main(main))
