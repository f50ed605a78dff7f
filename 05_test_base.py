"""Step 5: score the base model on the validation split, and the fine-tuned one beside it.

    uv run 05_test_base.py

Every prompt is answered twice: freely, as in the chat, and restricted to the labels. A model is worth its cost when it
beats the baselines: the most frequent label, and a character n-gram model that trains in seconds.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from emojitune.artifacts import (
    OutputDirectory,
    UserError,
    load_verified_manifest,
    lock_output_dir,
    read_jsonl,
    rerun_command,
    write_json,
    write_jsonl,
    write_text,
)
from emojitune.cli import add_device, add_output_dir, bounded, model_name, run_main
from emojitune.data.samples import Sample, count_labels, draw, load_samples, sanitize

if TYPE_CHECKING:
    from emojitune.evaluation.metrics import Evaluation, PromptScore, TurnScore
    from emojitune.evaluation.predictions import Prediction
    from emojitune.inference.chat_model import ChatModel

SCRIPT = "05_test_base.py"

# The base model says the same in 100 replies as in 800, and never ends its turn: each takes twelve passes.
BASE_SAMPLES = 100
CONVERSATIONS = {"base": 10, "finetuned": 40}
SHOWN_REPLIES = 12

# What an earlier evaluation may have left, and this one does not write without a fine-tuned model, or with --quick.
STALE = ("finetuned.json", "predictions_finetuned.jsonl", "comparison.png", "conversations.png", "report.html")

REWORDED_SYSTEM_PROMPT = "次の文の気持ちに合う絵文字を一つだけ答えて"  # the same task in words that no sample has


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog="example: uv run 05_test_base.py --samples 100 --quick"
    )
    add_output_dir(parser)
    parser.add_argument(
        "--model",
        type=model_name,
        help="the base model: embedded, a hub id or a folder (default: the one that was fine-tuned, else embedded)",
    )
    parser.add_argument(
        "--samples",
        type=bounded(int, 1, 10**9),
        metavar="N",
        help="only N validation samples, drawn at random (default: all; fewer are faster and say less)",
    )
    parser.add_argument("--quick", action="store_true", help="leave out running conversations and other system prompts")
    add_device(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    output: OutputDirectory = args.output_dir

    # Heavy imports: after the arguments, so that --help answers at once.
    from tqdm import tqdm

    from emojitune.evaluation.baselines import measure_baselines
    from emojitune.evaluation.metrics import Evaluation, compare, score, slice_scores
    from emojitune.evaluation.predictions import build_examples, predict
    from emojitune.inference.chat_model import load_base, load_finetuned
    from emojitune.reporting.text import evaluation_findings, format_evaluation, format_slices

    with lock_output_dir(output, SCRIPT):
        # ---- read: the split of step 2, the run of step 3 ------------------------------------------------------------
        load_verified_manifest("02_split_data.py", output)
        run = load_verified_manifest("03_train_model.py", output) if output.run.exists() else None
        train = load_samples(read_jsonl(output.train, "02_split_data.py", output))
        whole = load_samples(read_jsonl(output.validation, "02_split_data.py", output))
        validation = draw(whole, args.samples) if args.samples else whole
        labels = list(count_labels(label for sample in train for label in sample.labels))
        examples = build_examples(validation, labels)
        if not examples:
            raise UserError(f"{output.validation} has nothing to measure with; add samples to the dataset")
        turns = sum(len(sample.labels) for sample in validation)
        if len(examples) < turns:
            print(f"Left out: turns whose label no training sample has, {turns - len(examples)} of {turns}")
        system = run["system_prompt"] if run else Counter(sample.system for sample in train).most_common(1)[0][0]
        known = {example.sample for example in examples}
        validation = [sample for sample in validation if sample.number in known]
        few = draw(validation, BASE_SAMPLES)
        few_numbers = {sample.number for sample in few}
        baselines, ngram = measure_baselines(train, examples, labels)

        # ---- evaluate: one model after the other, since two at once would take twice the memory ----------------------
        results, predictions = {}, {}
        for name in ("base", "finetuned") if run else ("base",):
            tuned = name == "finetuned"
            print(f"Loading the {'fine-tuned' if tuned else 'base'} model …")
            if tuned:
                model, samples = load_finetuned(output, run, args.device), validation
            else:
                model, samples = load_base(run, args.device, args.model), few
            count = CONVERSATIONS[name]
            asked = [example for example in examples if tuned or example.sample in few_numbers]
            print(f"It answers {len(samples)} of {len(validation)} samples; its weights are {model.weights[:12]}")
            with tqdm(total=len(asked), desc="predicting", unit="reply") as bar:
                found = predictions[name] = predict(model, asked, labels, bar.update)
            of_few = [p for p in found if p.sample in few_numbers]  # those that both models answer
            results[name] = Evaluation(
                model=model.name,
                weights=model.weights,
                samples=len(samples),
                replies=len(asked),
                scores=score(found, labels),
                slices=slice_scores(found, labels),
                conversations={} if args.quick else hold_conversations(model, samples, found, system, count),
                system_prompts=try_system_prompts(model, of_few, labels, system) if tuned and not args.quick else [],
                baselines=baselines,
                against_base=compare([p.reply for p in predictions["base"]], of_few) if tuned else None,
                against_ngram=compare(ngram, found) if tuned else None,
            )
            del model

        # ---- write -------------------------------------------------------------------------------------------------
        for stale in STALE:
            (output.evaluation / stale).unlink(missing_ok=True)
        for name, result in results.items():
            write_jsonl(output.evaluation / f"predictions_{name}.jsonl", (p.as_json() for p in predictions[name]))
            write_json(output.evaluation / f"{name}.json", asdict(result))
        if run:
            write_report(results, predictions, labels, run, len(whole), output)

    # ---- say what was found, and what is next ------------------------------------------------------------------------
    print_replies(results, predictions)
    print("\n" + format_evaluation(results))
    for sentence in [*evaluation_findings(results), *format_slices(results)]:
        print(sentence)
    print(f"\nWrote {output.evaluation}/" + (", with report.html to look at" if run else ""))
    print(f"Next: {rerun_command('06_test_finetuned_single.py' if run else '03_train_model.py', output)}")
    return 0


def hold_conversations(
    model: "ChatModel", samples: Sequence[Sample], predictions: Sequence["Prediction"], system: str | None, count: int
) -> dict[str, list["TurnScore"]]:
    """At most `count` multi-turn samples, and as many conversations of unrelated texts."""
    from tqdm import tqdm

    from emojitune.evaluation import conversations

    own = conversations.multi_turn_conversations(samples)[:count]
    strung = conversations.concatenated_conversations(samples, count, system)
    alone = {(p.text, p.label): p.reply == p.label for p in predictions if p.turn == 1}
    replies = sum(len(conversation.turns) for conversation in own + strung)
    with tqdm(total=replies, desc="running conversations", unit="reply") as bar:
        return {
            "own": conversations.run_conversations(model, own, alone, bar.update),
            "strung": conversations.run_conversations(model, strung, alone, bar.update),
        }


def try_system_prompts(
    model: "ChatModel", predictions: Sequence["Prediction"], labels: Sequence[str], system: str | None
) -> list["PromptScore"]:
    """First turns with the training's system prompt, which are predicted already; then with none and a reworded one."""
    from tqdm import tqdm

    from emojitune.data.emojis import are_emojis
    from emojitune.evaluation.metrics import PromptScore, score
    from emojitune.evaluation.predictions import predict
    from emojitune.inference.prompts import build_messages

    trained = [p for p in predictions if (p.turn, p.system) == (1, system)]
    prompts = {"training": system}
    prompts |= {"none": None} if system else {}
    prompts |= {"reworded": REWORDED_SYSTEM_PROMPT} if are_emojis(labels) else {}
    if not trained or len(prompts) == 1:
        return []
    results = []
    with tqdm(total=(len(prompts) - 1) * len(trained), desc="other system prompts", unit="reply") as bar:
        for name, prompt in prompts.items():
            asked = [replace(p, messages=build_messages(p.text, prompt)) for p in trained]
            scores = score(trained if name == "training" else predict(model, asked, labels, bar.update), labels)
            rates = scores.exact_accuracy, scores.format_rate, scores.restricted_exact_accuracy
            results.append(PromptScore(name, prompt, *rates))
    return results


def write_report(
    results: dict[str, "Evaluation"],
    predictions: dict[str, list["Prediction"]],
    labels: list[str],
    run: dict[str, Any],
    validation_samples: int,
    output: OutputDirectory,
) -> None:
    """The pictures, report.html, and the model card with the metrics."""
    from emojitune.reporting.diagnosis import diagnose, load_curve
    from emojitune.reporting.figures import comparison_figure, conversations_figure, save
    from emojitune.reporting.html import render_report
    from emojitune.reporting.model_card import write_model_card

    # From the history of this very run: what step 4 wrote may be of an earlier one.
    curve = load_curve(read_jsonl(output.loss_history, "03_train_model.py", output))
    diagnosis = diagnose(curve, validation_samples, len(labels), run["settings"], output)
    save(comparison_figure(results), output.evaluation / "comparison.png")
    if any(results["finetuned"].conversations.values()):
        save(conversations_figure(results), output.evaluation / "conversations.png")
    page = render_report(results, predictions, labels, run, curve, diagnosis, output)
    write_text(output.evaluation / "report.html", page)
    write_model_card(output, run, evaluation=results["finetuned"])


def print_replies(results: dict[str, "Evaluation"], predictions: dict[str, list["Prediction"]]) -> None:
    """A few samples, evenly over those that every model answered: label, replies, text."""
    print("\nlabel   " + "   ".join(f"{result.model:24}" for result in results.values()) + "   text")
    replies = {name: {(p.sample, p.turn): p.reply for p in found} for name, found in predictions.items()}
    for p in predictions["base"][:: -(-len(predictions["base"]) // SHOWN_REPLIES)]:
        shown = "   ".join(f"{sanitize(found[p.sample, p.turn], 22):24}" for found in replies.values())
        print(f"{p.label}      {shown}   {sanitize(p.text, 60)}")


if __name__ == "__main__":
    sys.exit(run_main(main))
