"""Replies a second: restricted replies in batches, against `model.generate` one by one, in one process.

    uv run benchmarks/inference_speed.py [--replies 100] [--output-dir outputs]

Needs steps 2 and 3. In each round ours answers the whole validation file, conversations included, as step 5 does, and
`generate` a share of it, evenly spread; it stops at the end of the turn, or after as many tokens as the chat's default.
The base model never ends its turn; the fine-tuned one does. Ours computes in what step 5 computes in, which is bf16 on
a CPU that multiplies it by itself; `generate` in fp32, and there in bf16 as well.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from emojitune.chat import Generation, prompt_tokens
from emojitune.command_line import output_directory
from emojitune.dataset import load_samples
from emojitune.loading import Speaker, load_base, load_finetuned
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from emojitune.artifacts import checked_record, read_jsonl
from emojitune.evaluation import Item, items_of, restricted
from emojitune.model import find_base_model, load_model, quiet_transformers, stop_tokens

ROUNDS = 5


def one_by_one(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]) -> list[str]:
    """What the documentation of transformers shows: one prompt, one call."""
    stops, replies = stop_tokens(tokenizer), []
    for prompt in prompts:
        with torch.inference_mode(), quiet_transformers():
            output = model.generate(
                torch.tensor([prompt], device=model.device),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long, device=model.device),
                max_new_tokens=Generation().max_new_tokens,
                do_sample=False,
                eos_token_id=stops,
            )
        replies.append(tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True).strip())
    return replies


def choices(speaker: Speaker, items: list[Item], labels: list[str]) -> list[str]:
    """The likeliest label for each item."""
    prompts = [prompt_tokens(speaker.tokenizer, item.messages) for item in items]
    return [max(row, key=row.__getitem__) for row in restricted(speaker, prompts, labels, lambda _: None)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--replies", type=int, default=100, help="of generate, in all rounds (default: 100)")
    parser.add_argument("--output-dir", type=output_directory, default="outputs")
    args = parser.parse_args()
    output = args.output_dir
    run = checked_record("03_train_model.py", output)
    items = items_of(load_samples(read_jsonl(output.validation, "02_split_data.py", output)))
    share = min(args.replies, len(items)) // ROUNDS
    parts = [range(first, len(items), len(items) // share)[:share] for first in range(ROUNDS)]
    base = find_base_model(run["base_model"]["name"])
    for folder in (base.folder, output.model):
        speaker = load_base(base.name) if folder == base.folder else load_finetuned(output, run)
        device, ours = speaker.model.device, speaker.model.dtype
        stock = {dtype: load_model(folder, device, dtype) for dtype in dict.fromkeys((torch.float32, ours))}
        prompts = [prompt_tokens(speaker.tokenizer, item.messages) for item in items]
        choices(speaker, items[:8], run["labels"])
        for model in stock.values():
            one_by_one(model, speaker.tokenizer, prompts[:1])
        fast: list[float] = []
        slow: dict[torch.dtype, list[float]] = {dtype: [] for dtype in stock}
        same = 0
        for part in tqdm(parts, unit="round", desc=speaker.name):
            start = time.perf_counter()
            chosen = choices(speaker, items, run["labels"])
            fast.append(len(items) / (time.perf_counter() - start))
            for dtype, model in stock.items():
                start = time.perf_counter()
                replies = one_by_one(model, speaker.tokenizer, [prompts[index] for index in part])
                slow[dtype].append(share / (time.perf_counter() - start))
                if dtype == torch.float32:
                    same += sum(reply == chosen[index] for reply, index in zip(replies, part, strict=True))
        print(f"{speaker.name}: restricted, in batches, {ours}: {statistics.median(fast):.1f} replies a second")
        for dtype, rates in slow.items():
            ratios = sorted(one / other for one, other in zip(fast, rates, strict=True))
            print(
                f"  generate, one by one, {dtype}: {statistics.median(rates):.1f}; ratio "
                f"{statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f}, {ROUNDS} rounds)"
            )
        print(f"  the same reply as in float32 in {same} of {ROUNDS * share}")
        del speaker, stock, model


if __name__ == "__main__":
    main()
