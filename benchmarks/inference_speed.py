"""Replies a second: restricted replies in batches, against `model.generate` one by one, in one process.

    uv run benchmarks/inference_speed.py [--replies 100] [--output-dir outputs]

Needs steps 2 and 3. Both sides answer the same validation tweets, in rounds that alternate; `generate` stops at the end
of the turn, or after as many tokens as the chat's default. The base model never ends its turn; the fine-tuned one does.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from tqdm import tqdm

from emojitune.artifacts import checked_record, read_jsonl
from emojitune.chat import Generation, prompt_tokens
from emojitune.command_line import output_directory
from emojitune.dataset import load_samples
from emojitune.evaluation import Item, items_of, restricted
from emojitune.loading import Speaker, load_base, load_finetuned
from emojitune.model import quiet_transformers, stop_tokens

ROUNDS = 5


def one_by_one(speaker: Speaker, prompts: list[list[int]]) -> list[str]:
    """What the documentation of transformers shows: one prompt, one call."""
    stops, replies = stop_tokens(speaker.tokenizer), []
    for prompt in prompts:
        with torch.inference_mode(), quiet_transformers():
            output = speaker.model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=Generation().max_new_tokens,
                do_sample=False,
                eos_token_id=stops,
            )
        replies.append(speaker.tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True).strip())
    return replies


def choices(speaker: Speaker, items: list[Item], labels: list[str]) -> list[str]:
    """The likeliest label for each item."""
    prompts = [prompt_tokens(speaker.tokenizer, item.messages) for item in items]
    return [max(row, key=row.__getitem__) for row in restricted(speaker, prompts, labels, lambda _: None)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--replies", type=int, default=100)
    parser.add_argument("--output-dir", type=output_directory, default="outputs")
    args = parser.parse_args()
    output = args.output_dir
    run = checked_record("03_train_model.py", output)
    items = items_of(load_samples(read_jsonl(output.validation, "02_split_data.py", output)))
    items = [item for item in items if item.turn == 1][: args.replies]
    share = len(items) // ROUNDS
    for name in ("base", "finetuned"):
        speaker = load_base(run["base_model"]["name"]) if name == "base" else load_finetuned(output, run)
        choices(speaker, items[:8], run["labels"])
        one_by_one(speaker, [prompt_tokens(speaker.tokenizer, items[0].messages)])
        rates: list[list[float]] = [[], []]
        same = 0
        for number in tqdm(range(ROUNDS), unit="round", desc=speaker.name):
            part = items[number * share : (number + 1) * share]
            start = time.perf_counter()
            chosen = choices(speaker, items, run["labels"])  # the whole file, as step 5 does
            rates[0].append(len(items) / (time.perf_counter() - start))
            start = time.perf_counter()
            prompts = [prompt_tokens(speaker.tokenizer, item.messages) for item in part]
            replies = one_by_one(speaker, prompts)
            rates[1].append(share / (time.perf_counter() - start))
            same += sum(
                reply == choice
                for reply, choice in zip(replies, chosen[number * share : (number + 1) * share], strict=True)
            )
        ratios = sorted(fast / slow for fast, slow in zip(*rates, strict=True))
        print(
            f"{speaker.name}: restricted, in batches: {statistics.median(rates[0]):.1f} replies a second; "
            f"generate, one by one: {statistics.median(rates[1]):.1f}; ratio {statistics.median(ratios):.1f} "
            f"({ratios[0]:.1f} to {ratios[-1]:.1f}, {ROUNDS} rounds); the same reply in {same} of {ROUNDS * share}"
        )
        del speaker


if __name__ == "__main__":
    main()
