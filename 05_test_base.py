"""Step 5: score the base model on the validation split, and the fine-tuned one beside it.

    uv run 05_test_base.py

Nobody has seen the validation samples but the person who labelled them. Every reply is asked for twice: freely, as in
the chat, and restricted to the labels of the run. A model is worth its cost when it beats the floor: the most frequent
label, and a character n-gram model that trains in a second.
"""

import argparse
import sys
from collections.abc import Sequence

from emojitune.artifacts import (
    OutputDirectory,
    UserError,
    checked_record,
    command,
    inputs_of,
    locked,
    read_json,
    read_jsonl,
    remove_leftovers,
    write_json,
    write_jsonl,
    write_text,
)
from emojitune.command_line import add_output_dir, exit_status, model_name, number

SCRIPT = "05_test_base.py"

CONVERSATIONS = 40  # of five turns each, strung together from single samples

BASE_SAMPLES = 50  # for the base model with other system prompts


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_output_dir(parser)
    parser.add_argument(
        "--model",
        type=model_name,
        help="the base model: embedded, a hub id or a folder (default: the one that was fine-tuned, else embedded)",
    )
    parser.add_argument(
        "--samples",
        type=number(int, 1, 10**9),
        metavar="N",
        help="only N validation samples, evenly over the labels (default: all; fewer are faster and say less)",
    )
    parser.add_argument("--quick", action="store_true", help="leave out running conversations and other system prompts")
    parser.add_argument("--verify", action="store_true", help="hash all weights before use (default: size and time)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    output: OutputDirectory = args.output_dir
    with locked(output, SCRIPT):
        # ---- read ----------------------------------------------------------------------------------------------
        checked_record("02_split_data.py", output)
        run = checked_record("03_train_model.py", output, args.verify) if output.run.exists() else None
        base_name = args.model or (run["base_model"]["name"] if run else "embedded")

        from tqdm import tqdm

        from emojitune import dataset, evaluation, loading
        from emojitune import report as reporting
        from emojitune.metrics import most_frequent, rate_of

        train = dataset.load_samples(read_jsonl(output.train, "02_split_data.py", output))
        validation = dataset.load_samples(read_jsonl(output.validation, "02_split_data.py", output))
        if args.samples:
            validation = dataset.at_most(validation, args.samples)
        if not validation:
            raise UserError(
                f"{output.validation} is empty: there is nothing to measure with; add samples to the dataset"
            )
        labels = list(reporting.counts_in_order(label for sample in train for label in sample.labels))
        items = [item for item in evaluation.items_of(validation) if item.label in labels]
        system = validation[0].system

        # ---- the floor -----------------------------------------------------------------------------------------
        truth = [item.label for item in items]
        common = most_frequent([label for sample in train for label in sample.labels])
        ngram = evaluation.ngram_choices(train, items)
        floor = {
            "chance": 1 / len(labels),
            "most_frequent_label": rate_of([label == common for label in truth]),
            "ngram": rate_of([guess == label for guess, label in zip(ngram, truth, strict=True)]),
        }

        # ---- the models, one after the other: two at once would take twice the memory --------------------------
        remove_leftovers(output.evaluation)
        results, predictions = {}, {}
        for name in ("base", "finetuned") if run else ("base",):
            speaker = (
                loading.load_base(base_name, args.verify) if name == "base" else loading.load_finetuned(output, run)
            )
            print(f"The {speaker.name} model, weights {speaker.weights[:12]}")
            with tqdm(total=2 * len(items), desc="predicting, restricted and free", unit="reply") as bar:
                predictions[name] = evaluation.predict(speaker, items, labels, bar.update)
            results[name] = {
                "model": speaker.name,
                "weights": speaker.weights,
                "samples": len(validation),
                "replies": len(items),
                **evaluation.score(predictions[name], labels),
                "floor": floor,
            }
            if not args.quick:
                results[name] |= in_other_settings(speaker, validation, items, predictions[name], labels, system)
            del speaker
        if run:
            results["finetuned"]["against_base"] = evaluation.compare(predictions["base"], predictions["finetuned"])

        # ---- write ---------------------------------------------------------------------------------------------
        inputs = inputs_of(output, [output.train, output.validation, *([output.run] if run else [])])
        for name, result in results.items():
            write_jsonl(output.evaluation / f"predictions_{name}.jsonl", (p.as_json() for p in predictions[name]))
            write_json(output.evaluation / f"{name}.json", {"inputs": inputs, **result})
        from emojitune import figures, html_report

        if run:
            figures.draw_comparison(results, output.evaluation / "comparison.png")
            diagnosis = read_json(output.diagnosis, "04_plot_loss.py", output) if output.diagnosis.exists() else None
            page = html_report.page(results, predictions, labels, run, diagnosis, output)
            write_text(output.evaluation / "report.html", page)

    # ---- say -----------------------------------------------------------------------------------------------------
    show_replies(predictions)
    print()
    print(html_report.metrics_as_text(results))
    for sentence in html_report.verdict(results):
        print(sentence)
    print(f"\nWrote {output.evaluation}/" + (", with report.html to look at" if run else ""))
    print(f"Next: {command('06_test_finetuned_single.py' if run else '03_train_model.py', output)}")
    return 0


def in_other_settings(
    speaker, validation: list, items: list, predictions: list, labels: list[str], system: str | None
) -> dict:
    """The same model in running conversations, and with other system prompts than that of the `predictions`."""
    from tqdm import tqdm

    from emojitune import evaluation

    own = evaluation.own_turns(validation)
    strung = evaluation.strung_together(validation, CONVERSATIONS)
    with tqdm(total=sum(map(len, own)) + sum(map(len, strung)), desc="conversing", unit="reply") as bar:
        context = {
            "multi_turn_samples": evaluation.converse(speaker, own, system, bar.update),
            "strung_together": evaluation.converse(speaker, strung, system, bar.update),
        }
    single = [(item, prediction) for item, prediction in zip(items, predictions, strict=True) if item.turn == 1]
    if speaker.name == "base":  # it answers no emoji whatever it is asked; a few show that
        single = single[:BASE_SAMPLES]
    found = {"training": (system, [prediction for _, prediction in single])}
    others = {"none": None, "reworded": evaluation.REWORDED_SYSTEM_PROMPT}
    with tqdm(total=2 * len(others) * len(single), desc="other system prompts", unit="reply") as bar:
        for name, prompt in others.items():
            changed = evaluation.with_system([item for item, _ in single], prompt)
            found[name] = (prompt, evaluation.predict(speaker, changed, labels, bar.update))
    prompts = {}
    for name, (prompt, answers) in found.items():
        scored = evaluation.score(answers, labels)
        prompts[name] = {
            "system": prompt,
            "exact_accuracy": scored["exact_accuracy"],
            "format_rate": scored["format_rate"],
            "restricted_exact_accuracy": scored["restricted"]["exact_accuracy"],
        }
    return {"context": context, "system_prompts": prompts}


def show_replies(predictions: dict[str, list]) -> None:
    """Each sample: its label, the replies, the text."""
    names = list(predictions)
    print("label   " + "   ".join(f"{'fine-tuned' if name == 'finetuned' else name:24}" for name in names) + "   text")
    from emojitune.dataset import printable

    for rows in zip(*predictions.values(), strict=True):
        replies = "   ".join(f"{printable(row.reply, 22):24}" for row in rows)
        print(f"{rows[0].label}      {replies}   {printable(rows[0].text, 60)}")


if __name__ == "__main__":
    sys.exit(exit_status(main))
