"""Replies per second: one pass for restricted and free replies, against `model.generate` in batches and one by one.

    uv run benchmarks/inference_speed.py --replies 96 --rounds 3

Needs steps 2 and 3 in --output-dir. All answer the same prompts in turn, in one process and one dtype, and end a reply
at the end of its turn or after as many tokens as step 5 allows. Only ours gives the labels' probabilities as well.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from emojitune.artifacts import load_verified_manifest, read_jsonl
from emojitune.cli import add_device, add_output_dir, bounded, run_main
from emojitune.data.samples import load_samples, sanitize, subsample

BATCH = 16  # what step 5 puts through the model at once


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_output_dir(parser)
    parser.add_argument("--replies", type=bounded(int, BATCH, 10**6), default=96, help="per round (default: 96)")
    parser.add_argument("--rounds", type=bounded(int, 1, 100), default=3, help="each with other samples (default: 3)")
    add_device(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)

    # Heavy imports: after the arguments, so that --help answers at once.
    import torch
    from tqdm import tqdm

    from emojitune.evaluation.predictions import MAX_NEW_TOKENS, build_examples, predict
    from emojitune.inference.chat_model import load_base, load_finetuned
    from emojitune.inference.prompts import encode_prompt
    from emojitune.model.loading import quiet_transformers, stop_token_ids

    output = args.output_dir
    run = load_verified_manifest("03_train_model.py", output)
    samples = load_samples(read_jsonl(output.validation, "02_split_data.py", output))
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads; "
        + ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    )

    def in_batches(model, examples, size):
        """The replies of generate, prompts sorted by length as a careful user would."""
        prompts = [encode_prompt(model.tokenizer, example.messages) for example in examples]
        order, replies = sorted(range(len(prompts)), key=lambda index: len(prompts[index])), {}
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            chosen = {"input_ids": [prompts[index] for index in rows]}
            inputs = model.tokenizer.pad(chosen, padding_side="left", return_tensors="pt").to(model.model.device)
            with torch.inference_mode(), quiet_transformers():
                output = model.model.generate(
                    **inputs,
                    do_sample=False,
                    repetition_penalty=1.0,  # the generation config of an instruction-tuned model may have another
                    max_new_tokens=MAX_NEW_TOKENS,
                    eos_token_id=stop_token_ids(model.tokenizer),
                    pad_token_id=model.tokenizer.pad_token_id,
                )
            found = model.tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            replies.update(zip(rows, (sanitize(text.strip()) for text in found), strict=True))
        return [replies[index] for index in range(len(prompts))]

    ways = {
        "ours": lambda model, asked: [p.reply for p in predict(model, asked, run["labels"], lambda replies: None)],
        f"generate, batches of {BATCH}": lambda model, asked: in_batches(model, asked, BATCH),
        "generate, one by one": lambda model, asked: in_batches(model, asked, 1),
    }
    for load in (
        lambda: load_base(run, args.device),
        lambda: load_finetuned(output, run, args.device),
    ):
        model = load()
        speeds, same = {way: [] for way in ways}, dict.fromkeys(ways, 0)
        for warm_up in (True, False):
            for number in tqdm(range(1 if warm_up else args.rounds), desc=model.name, unit="round", disable=warm_up):
                # Conversations included, in the shares of the validation split; each round takes other samples.
                chosen = subsample(samples[number :: args.rounds], BATCH if warm_up else args.replies)
                asked = build_examples(chosen, run["labels"])[: BATCH if warm_up else args.replies]
                replies = {}
                for way, answer in ways.items():
                    start = time.perf_counter()
                    replies[way] = answer(model, asked)
                    if not warm_up:
                        speeds[way].append(len(asked) / (time.perf_counter() - start))
                        same[way] += sum(a == b for a, b in zip(replies[way], replies["ours"], strict=True))
        total = same["ours"]
        print(f"{model.name}, {model.model.dtype} on {model.model.device}, {total} replies in {args.rounds} rounds")
        for way, rates in speeds.items():
            ratios = sorted(ours / other for ours, other in zip(speeds["ours"], rates, strict=True))
            print(
                f"  {way:24} {statistics.median(rates):6.1f} replies per second; ours is "
                f"{statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f}); "
                f"{same[way]} of {total} replies are the same"
            )
        del model
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
