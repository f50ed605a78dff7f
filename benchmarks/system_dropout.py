"""Should training leave out the system prompt at times? Exact accuracy with it, without it and with another.

    uv run benchmarks/system_dropout.py [--shares 0,0.1,0.3] [--per-label 20] [--output-dir outputs]

Needs step 2. Step 3's default rests on this, so it keeps to the training split: the first single tweets of each label
are trained on for two epochs, and as many next ones are measured with. What is done already is not done again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from learning_curve import ROOT, write_split
from tqdm import tqdm

from emojitune.artifacts import OutputDirectory, checked_record, read_json, read_jsonl
from emojitune.chat import prompt_tokens
from emojitune.command_line import number, output_directory
from emojitune.dataset import Sample, at_most, balanced, load_samples
from emojitune.evaluation import REWORDED_SYSTEM_PROMPT, items_of, restricted, with_system
from emojitune.loading import load_finetuned
from emojitune.metrics import rate_of

FOR_THE_BEST_EPOCH = 100  # samples that step 3 measures with


def two_halves(source: OutputDirectory, per_label: int) -> tuple[list[Sample], list[Sample]]:
    """Single tweets of the training split: `per_label` a label to train on, and as many others."""
    single = [sample for sample in load_samples(read_jsonl(source.train, "", source)) if sample.turns == 1]
    train = balanced(single, per_label)
    taken = {sample.number for sample in train}
    return train, balanced([sample for sample in single if sample.number not in taken], per_label)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shares", default="0,0.1,0.3", help="of the samples, with commas between them")
    parser.add_argument("--per-label", type=number(int, 1, 10**6), default=20)
    parser.add_argument("--output-dir", type=output_directory, default="outputs")
    args = parser.parse_args()
    source: OutputDirectory = args.output_dir
    record = checked_record("02_split_data.py", source)
    train, measured = two_halves(source, args.per_label)
    for share in args.shares.split(","):
        target = OutputDirectory(source.root / "system_dropout" / share)
        if not target.run.exists():
            few = at_most(measured, FOR_THE_BEST_EPOCH)
            write_split(target, record, [s.as_json() for s in train], [s.as_json() for s in few])
            command = ["03_train_model.py", "--system-dropout", share, "--epochs", "2"]
            subprocess.run([sys.executable, *command, "--output-dir", str(target.root.resolve())], cwd=ROOT, check=True)
        run = read_json(target.run, "03_train_model.py", target)
        speaker = load_finetuned(target, run)
        found: dict[str, object] = {"share": float(share)}
        for name, system in {
            "training": run["system_prompt"],
            "none": None,
            "reworded": REWORDED_SYSTEM_PROMPT,
        }.items():
            items = with_system(items_of(measured), system)
            prompts = [prompt_tokens(speaker.tokenizer, item.messages) for item in items]
            with tqdm(total=len(items), desc=name, unit="reply") as bar:
                rows = restricted(speaker, prompts, run["labels"], bar.update)
            right = [max(row, key=row.__getitem__) == item.label for row, item in zip(rows, items, strict=True)]
            found[name] = rate_of(right)
        print(json.dumps(found))


if __name__ == "__main__":
    main()
