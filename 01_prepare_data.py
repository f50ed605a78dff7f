"""Step 1: check and normalise the dataset, report on it, draw it.

    uv run 01_prepare_data.py

A model learns what the data shows, its mistakes included, so every sample is looked at before any is used. The report
says how many samples each label has, and what a training and a validation split of them could teach and measure.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from emojitune.artifacts import (
    OutputDirectory,
    UserError,
    command,
    locked,
    outputs_of,
    remove_leftovers,
    sha256_of,
    write_json,
    write_jsonl,
)
from emojitune.command_line import add_output_dir, exit_status, number

SCRIPT = "01_prepare_data.py"

SHOWN_PAIRS = 20  # near duplicates on the screen; report.json has up to a thousand
KEPT_PAIRS = 1000


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_output_dir(parser)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("training_data_emotion_jp.json"),
        metavar="FILE",
        help="a JSON array or JSONL of conversations, or CSV/TSV with the columns text and label "
        "(default: training_data_emotion_jp.json)",
    )
    parser.add_argument(
        "--max-length",
        type=number(int, 16, 32768),
        default=512,
        metavar="TOKENS",
        help="the longest conversation that training will take (default: 512; a tweet has about 40 tokens)",
    )

    choice = parser.add_argument_group("which samples (default: all of them)")
    choice.add_argument(
        "--max-samples", type=number(int, 1, 10**9), metavar="N", help="N samples, evenly over the labels"
    )
    choice.add_argument(
        "--turns",
        choices=("single", "multi", "all"),
        default="all",
        help="conversations of one turn, of several, or all (default: all)",
    )
    choice.add_argument(
        "--per-label",
        type=number(int, 1, 10**9),
        metavar="N",
        help="N samples of each label; with 10, the small set of the shipped data",
    )
    choice.add_argument(
        "--weights",
        type=label_weights,
        metavar="😀=3,😴=0.5",
        help="shift the balance: so many times as many samples of a label; none is repeated",
    )
    which = choice.add_mutually_exclusive_group()
    which.add_argument(
        "--labels", type=label_list, metavar="😀,😭", help="only these labels; fewer labels are easier to learn"
    )
    which.add_argument(
        "--groups", action="store_true", help="one emoji for each emotion group, 9 in all, instead of 25"
    )
    return parser.parse_args(argv)


def label_list(text: str) -> list[str]:
    """An argparse type: emojis with commas between them, each in its fully qualified form."""
    from emojitune.dataset import qualified
    from emojitune.emotions import is_single_emoji

    labels = [part.strip() for part in text.split(",")]
    for label in labels:
        if not is_single_emoji(label):
            raise argparse.ArgumentTypeError(f"{label!r} is not one emoji; write 😀,😭 for example")
    return [qualified(label) for label in labels]


def label_weights(text: str) -> dict[str, float]:
    """An argparse type: emoji=weight with commas between them."""
    weights = {}
    for part in text.split(","):
        label, _, weight = part.partition("=")
        [label] = label_list(label)
        weights[label] = number(float, 0, 1000, exclusive_low=True)(weight)
    return weights


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    output: OutputDirectory = args.output_dir
    from emojitune import dataset

    # ---- read --------------------------------------------------------------------------------------------------
    rows = dataset.read_rows(args.data)
    if not rows:
        raise UserError(f"{args.data} holds no samples")
    print(f"Read {args.data}: {len(rows) if isinstance(rows, list) else 1} samples")

    # ---- check -------------------------------------------------------------------------------------------------
    from emojitune.model import token_lengths

    samples, problems = dataset.validate(rows, args.max_length, token_lengths)
    if problems:
        for problem in problems:
            print(problem, file=sys.stderr)
        numbers = len({problem.number for problem in problems})
        raise UserError(
            f"{args.data} has {len(problems)} problems in {numbers} samples, listed above; mend them and run again"
        )

    # ---- choose ------------------------------------------------------------------------------------------------
    samples = choose(samples, args)
    if len(samples) < len(rows):
        print(f"Chose {len(samples)} of them, as the flags say")

    # ---- compare -----------------------------------------------------------------------------------------------
    texts = [(sample, text) for sample in samples for text in sample.texts]
    pairs = [
        {
            "samples": [texts[i][0].number, texts[j][0].number],
            "similarity": round(similarity, 3),
            "texts": [texts[i][1], texts[j][1]],
            "same_label": texts[i][0].label == texts[j][0].label,
        }
        for i, j, similarity in islice(dataset.near_duplicates([text for _, text in texts]), KEPT_PAIRS)
    ]

    # ---- report ------------------------------------------------------------------------------------------------
    from emojitune import report as reporting

    report = reporting.describe(samples, token_lengths([list(sample.messages) for sample in samples]))
    report["near_duplicates"] = pairs
    print(reporting.as_text(report))
    for pair in pairs[:SHOWN_PAIRS]:
        first, second = (dataset.printable(text, 40) for text in pair["texts"])
        labels = "" if pair["same_label"] else ", with different labels"
        print(
            f"  samples {pair['samples'][0]} and {pair['samples'][1]} are {pair['similarity']:.0%} alike{labels}: "
            f"{first} / {second}"
        )
    if len(pairs) > SHOWN_PAIRS:
        least = "at least " if len(pairs) == KEPT_PAIRS else ""
        print(f"  … and {least}{len(pairs) - SHOWN_PAIRS} more pairs; see {output.report.name}")

    # ---- write -------------------------------------------------------------------------------------------------
    from emojitune import figures

    with locked(output, SCRIPT):
        remove_leftovers(output.report.parent)
        output.report.unlink(missing_ok=True)
        write_jsonl(output.dataset, (sample.as_json() for sample in samples))
        figures.draw_labels(
            report["samples_per_label"],
            f"{len(samples)} samples, {len(report['samples_per_label'])} labels",
            output.labels_picture,
        )
        choices = {
            name: getattr(args, name)
            for name in ("max_samples", "turns", "per_label", "weights", "labels", "groups", "max_length")
        }
        write_json(
            output.report,
            {
                "inputs": {},
                "outputs": outputs_of(output, [output.dataset, output.labels_picture]),
                "data": {"name": args.data.name, "sha256": sha256_of(args.data)},
                "choices": choices,
                **report,
            },
        )
    print(f"Wrote {output.dataset}, {output.report.name} and {output.labels_picture.name}")
    print(f"Next: {command('02_split_data.py', output)}")
    return 0


def choose(samples: list, args: argparse.Namespace) -> list:
    """The samples that the flags ask for. Raises UserError when none is left or a label that they name has none."""
    from emojitune import dataset

    chosen = dataset.with_turns(samples, args.turns)
    if args.groups:
        chosen = dataset.with_group_labels(chosen)
    present = set(dataset.samples_by_label(chosen))
    missing = [label for label in [*(args.labels or []), *(args.weights or {})] if label not in present]
    if missing:
        raise UserError(
            f"no sample of {args.data} has the label {' '.join(missing)}; leave it out of --labels and --weights"
        )
    if args.labels:
        chosen = dataset.with_labels(chosen, args.labels)
    if args.per_label or args.weights:
        chosen = dataset.balanced(chosen, args.per_label, args.weights)
    if args.max_samples:
        chosen = dataset.at_most(chosen, args.max_samples)
    if not chosen:
        raise UserError(f"the flags leave no sample of {args.data}; loosen them")
    return chosen


if __name__ == "__main__":
    sys.exit(exit_status(main))
