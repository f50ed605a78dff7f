"""Is it too little data? Exact accuracy on the same validation samples, trained with more and more samples a label.

    uv run benchmarks/learning_curve.py [--sizes 10,20,40,80] [--epochs 2] [--output-dir outputs]

Needs step 2. For each size, the training split's first samples of each label (the small set comes first) go into an
output directory of their own, with the whole validation split, and step 3 trains on them. Beside Gemma, the character
n-gram model learns from the same samples. What is done already is not done again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from emojitune.artifacts import (
    OutputDirectory,
    checked_record,
    outputs_of,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)
from emojitune.command_line import number, output_directory
from emojitune.dataset import balanced, load_samples
from emojitune.evaluation import items_of, ngram_choices
from emojitune.figures import draw_learning_curve
from emojitune.metrics import rate_of

ROOT = Path(__file__).parent.parent


def prepare(source: OutputDirectory, target: OutputDirectory, per_label: int) -> None:
    """Steps 1 and 2 of `target`: the training split of `source` cut down, its validation split as it is."""
    record = checked_record("02_split_data.py", source)
    train = [sample for sample in load_samples(read_jsonl(source.train, "", source)) if sample.turns == 1]
    rows = [sample.as_json() for sample in balanced(train, per_label)]
    write_split(target, record, rows, read_jsonl(source.validation, "", source))


def write_split(target: OutputDirectory, record: dict, train: list[dict], validation: list[dict]) -> None:
    """What step 3 reads of step 2, from rows chosen here; the rest of the record as in the split they come from."""
    write_jsonl(target.train, train)
    write_jsonl(target.validation, validation)
    outputs = outputs_of(target, [target.train, target.validation])
    write_json(target.split, {**record, "inputs": {}, "outputs": outputs})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", default="10,20,40,80", help="samples a label, with commas between them")
    parser.add_argument("--epochs", type=number(int, 1, 100), default=2)
    parser.add_argument("--output-dir", type=output_directory, default="outputs")
    args = parser.parse_args()
    source: OutputDirectory = args.output_dir
    curve = source.root / "learning_curve"
    points = []
    for per_label in map(int, args.sizes.split(",")):
        target = OutputDirectory(curve / str(per_label))
        if not target.run.exists():
            prepare(source, target, per_label)
            command = ["03_train_model.py", "--epochs", str(args.epochs), "--output-dir", str(target.root.resolve())]
            subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
        run = read_json(target.run, "03_train_model.py", target)
        train = load_samples(read_jsonl(target.train, "", target))
        items = items_of(load_samples(read_jsonl(target.validation, "", target)))
        best = next(epoch for epoch in run["epochs"] if epoch["epoch"] == run["best_epoch"])
        right = round(best["exact_accuracy"] * len(items))
        ngram = [guess == item.label for guess, item in zip(ngram_choices(train, items), items, strict=True)]
        points.append(
            {
                "samples_per_label": per_label,
                "samples": len(train),
                "best_epoch": run["best_epoch"],
                "seconds": run["seconds"],
                "gemma": rate_of([True] * right + [False] * (len(items) - right)),
                "ngram": rate_of(ngram),
            }
        )
        print(json.dumps(points[-1], ensure_ascii=False))
    write_json(curve / "learning_curve.json", {"epochs": args.epochs, "replies": len(items), "points": points})
    draw_learning_curve(points, args.epochs, len(items), curve / "learning_curve.png")
    print(f"Wrote {curve / 'learning_curve.json'} and learning_curve.png")


if __name__ == "__main__":
    main()
