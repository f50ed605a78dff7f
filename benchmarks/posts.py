"""Score a run on posts by writers who wrote nothing for training: posts.json and diary.json.

    uv run benchmarks/posts.py --output-dir outputs

The yardsticks of the dataset: they are never trained on and nothing is chosen by them. posts.json holds 500 posts in
the dataset's plainer forms, 20 per label; diary.json holds posts and replies as people's accounts have them, in a
natural mixture. Each post was read blind by three readers, and its label is the one that at least two of them chose.
"""

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tqdm import tqdm

from emojitune.artifacts import OutputDirectory, load_verified_manifest, read_jsonl, write_json
from emojitune.cli import output_directory
from emojitune.data.emojis import emotion_group
from emojitune.data.samples import Sample, load_samples
from emojitune.evaluation.baselines import ngram_choices
from emojitune.evaluation.predictions import EvalExample, build_examples, predict
from emojitune.inference.chat_model import load_finetuned
from emojitune.stats import Rate, rate_of

YARDSTICKS = ("posts", "diary")


def load_posts(name: str, system: str | None, labels: list[str]) -> list[EvalExample]:
    rows = json.loads(Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8"))
    head = [{"role": "system", "content": system}] if system else []
    samples = [
        Sample(
            number,
            (*head, {"role": "user", "content": row["text"]}, {"role": "assistant", "content": row["label"]}),
            {"form": row["form"]},
        )
        for number, row in enumerate(rows, 1)
    ]
    return build_examples(samples, labels)


def rates(choices: list[str], posts: list[EvalExample]) -> tuple[Rate, Rate]:
    """Exact and group accuracy."""
    exact = rate_of([choice == post.label for choice, post in zip(choices, posts, strict=True)])
    group = [emotion_group(choice) == emotion_group(post.label) for choice, post in zip(choices, posts, strict=True)]
    return exact, rate_of(group)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output-dir", type=output_directory, default=OutputDirectory(Path("outputs")))
    args = parser.parse_args()
    output: OutputDirectory = args.output_dir
    run = load_verified_manifest("03_train_model.py", output)
    train = load_samples(read_jsonl(output.train, "02_split_data.py", output))
    model = load_finetuned(output, run, "auto")
    trained = build_examples(train, run["labels"])
    result = {}
    for name in YARDSTICKS:
        posts = load_posts(name, run["system_prompt"], run["labels"])
        with tqdm(total=len(posts), desc=name, unit="reply") as bar:
            predictions = predict(model, posts, run["labels"], bar.update)
        ours = [prediction.choice for prediction in predictions]
        ngram = ngram_choices(trained, posts)
        slices: dict[str, list[int]] = defaultdict(list)
        for index, post in enumerate(posts):
            for key in ("all", post.fields["form"], emotion_group(post.label)):
                slices[key].append(index)
        result[name] = {}
        print(f"{name:14}{'exact':>20}{'group':>20}{'n-gram exact':>20}{'n-gram group':>20}")
        for key, indices in slices.items():
            chosen = [posts[i] for i in indices]
            cells = [rate for choices in (ours, ngram) for rate in rates([choices[i] for i in indices], chosen)]
            names = ("exact", "group", "ngram", "ngram_group")
            result[name][key] = {part: asdict(rate) for part, rate in zip(names, cells, strict=True)}
            print(f"{key:14}" + "".join(f"{rate!s:>20}" for rate in cells))
        print(f"free replies, exact: {rate_of([p.reply == p.label for p in predictions])}")
    write_json(output.evaluation / "posts.json", result)


if __name__ == "__main__":
    main()
