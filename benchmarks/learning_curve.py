"""Is it too little data? Exact accuracy on the same validation samples, trained with more and more samples per label.

    uv run benchmarks/learning_curve.py [--sizes 10,20,40,80] [--epochs 2] [--output-dir outputs]

Needs step 2. For each size, the training split's first samples of each label (the small set comes first) go into an
output directory of their own, with the whole validation split, and step 3 trains on them. Beside Gemma, the character
n-gram model learns from the same samples. Each point is the last epoch, where each run has had its whole schedule, also
where step 3 keeps an earlier one. What is done already is not done again.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import matplotlib.pyplot as plt

from emojitune.artifacts import (
    OutputDirectory,
    hash_files,
    load_verified_manifest,
    read_json,
    read_jsonl,
    rerun_command,
    write_json,
    write_jsonl,
)
from emojitune.cli import bounded, output_directory
from emojitune.data.samples import balance, load_samples
from emojitune.evaluation.baselines import ngram_choices
from emojitune.evaluation.predictions import build_examples
from emojitune.reporting.figures import BLUE, ORANGE, save
from emojitune.stats import rate_of, rate_of_count

ROOT = Path(__file__).parent.parent


def prepare(source: OutputDirectory, target: OutputDirectory, per_label: int) -> None:
    """Steps 1 and 2 of `target`: the training split of `source` cut down, its validation split as it is."""
    record = load_verified_manifest("02_split_data.py", source)
    train = [sample for sample in load_samples(read_jsonl(source.train, "", source)) if sample.turns == 1]
    write_jsonl(target.train, [sample.as_json() for sample in balance(train, per_label)])
    write_jsonl(target.validation, read_jsonl(source.validation, "", source))
    outputs = hash_files(target, [target.train, target.validation])
    write_json(target.split, {**record, "inputs": {}, "outputs": outputs})


def draw_learning_curve(points: Sequence[Mapping[str, Any]], epochs: int, replies: int, path: Path) -> None:
    """Exact accuracy against samples per label, for Gemma and for the n-gram model, with 95 % intervals.

    Each point has `samples_per_label` and the Rates `gemma` and `ngram`.
    """
    figure, axes = plt.subplots(figsize=(7, 4.2))
    sizes = [point["samples_per_label"] for point in points]
    for name, label, color in (("gemma", "fine-tuned Gemma", ORANGE), ("ngram", "character n-gram model", BLUE)):
        rates = [point[name] for point in points]
        low, high = [100 * rate.low for rate in rates], [100 * rate.high for rate in rates]
        axes.fill_between(sizes, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(sizes, [100 * rate.rate for rate in rates], color=color, marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set(ylim=(0, 100), xlabel="training samples per label", ylabel="exact accuracy, %")
    axes.set_title(f"Would more data help? {replies} validation replies, after {epochs} epochs")
    axes.legend(loc="upper left")
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", default="10,20,40,80", help="samples per label, with commas between them")
    parser.add_argument("--epochs", type=bounded(int, 1, 100), default=2)
    parser.add_argument("--output-dir", type=output_directory, default=OutputDirectory(Path("outputs")))
    args = parser.parse_args()
    source: OutputDirectory = args.output_dir
    curve = source.root / "learning_curve"
    points = []
    for per_label in map(int, args.sizes.split(",")):
        target = OutputDirectory(curve / str(per_label))
        done = target.run.exists() and read_json(target.run, "03_train_model.py", target)
        if not done or (len(done["epochs"]), done["ended"]) != (args.epochs, "finished"):
            prepare(source, target, per_label)
            command = shlex.split(rerun_command("03_train_model.py", target, "--epochs", str(args.epochs)))
            subprocess.run(command, cwd=ROOT, check=True)
        run = read_json(target.run, "03_train_model.py", target)
        train = load_samples(read_jsonl(target.train, "", target))
        items = build_examples(load_samples(read_jsonl(target.validation, "", target)), run["labels"])
        right = round(run["epochs"][-1]["exact_accuracy"] * len(items))
        trained = build_examples(train, run["labels"])
        ngram = [choice == item.label for choice, item in zip(ngram_choices(trained, items), items, strict=True)]
        points.append(
            {
                "samples_per_label": per_label,
                "samples": len(train),
                "seconds": run["seconds"],
                "gemma": rate_of_count(right, len(items)),
                "ngram": rate_of(ngram),
            }
        )
        print(points[-1])
    rows = [{**point, "gemma": asdict(point["gemma"]), "ngram": asdict(point["ngram"])} for point in points]
    write_json(curve / "learning_curve.json", {"epochs": args.epochs, "replies": len(items), "points": rows})
    draw_learning_curve(points, args.epochs, len(items), curve / "learning_curve.png")
    print(f"Wrote {curve / 'learning_curve.json'} and learning_curve.png")


if __name__ == "__main__":
    main()
