"""LoRA against full fine-tuning: validation loss, exact accuracy, time and memory, over several seeds.

    uv run benchmarks/methods.py [--per-label 20] [--seeds 42,43,44] [--output-dir outputs]

Needs step 2. Every run trains on the same first samples of each label and measures on the whole validation split, with
step 3's defaults otherwise. What is done already is not done again. Prints README's table.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).parent.parent))

from learning_curve import ROOT, prepare

from emojitune.artifacts import OutputDirectory, read_json, write_json
from emojitune.command_line import number, output_directory

METHODS = ("lora", "full")


def spread(values: list[float], form: str) -> str:
    """Mean, and the least and the greatest."""
    return f"{format(mean(values), form)} ({format(min(values), form)} to {format(max(values), form)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--per-label", type=number(int, 1, 10**6), default=20)
    parser.add_argument("--seeds", default="42,43,44", help="with commas between them")
    parser.add_argument("--output-dir", type=output_directory, default="outputs")
    args = parser.parse_args()
    source: OutputDirectory = args.output_dir
    runs = []
    for seed in args.seeds.split(","):
        for method in METHODS:
            target = OutputDirectory(source.root / "methods" / f"{method}-{seed}")
            if not target.run.exists():
                prepare(source, target, args.per_label)
                command = ["03_train_model.py", "--method", method, "--seed", seed]
                command += ["--output-dir", str(target.root.resolve())]
                subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
            run = read_json(target.run, "03_train_model.py", target)
            best = next(epoch for epoch in run["epochs"] if epoch["epoch"] == run["best_epoch"])
            runs.append({"method": method, "seed": int(seed), "best": best, "seconds": run["seconds"]})
            runs[-1]["peak_memory_bytes"] = run["peak_memory_bytes"]
            print(runs[-1])
    write_json(source.root / "methods/methods.json", {"per_label": args.per_label, "runs": runs})
    print("| method | loss of the labels | exact accuracy | seconds | peak memory |\n| --- | --- | --- | --- | --- |")
    for method in METHODS:
        mine = [run for run in runs if run["method"] == method]
        cells = [
            spread([run["best"]["label_loss"] for run in mine], ".2f"),
            spread([run["best"]["exact_accuracy"] for run in mine], ".1%"),
            spread([run["seconds"] for run in mine], ".0f"),
            f"{max(run['peak_memory_bytes'] for run in mine) / 1e9:.1f} GB",
        ]
        print(f"| {method} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
