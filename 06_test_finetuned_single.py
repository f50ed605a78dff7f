"""Step 6: chat with the fine-tuned model, or with the base model, one input at a time.

    uv run 06_test_finetuned_single.py --system "このツイートを絵文字で感情分類してください"
    echo 今日は最高 | uv run 06_test_finetuned_single.py

Every input starts a new conversation. With the replies to other tweets behind it, the model would be right less often
and repeat itself, as step 5 shows.
"""

import argparse
import contextlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from emojitune.artifacts import (
    OutputDirectory,
    UserError,
    load_verified_manifest,
    read_json,
    rerun_command,
    system_flag,
)
from emojitune.cli import add_device, add_output_dir, bounded, run_main
from emojitune.data.samples import sanitize

if TYPE_CHECKING:
    from emojitune.inference.chat_model import ChatModel

SCRIPT = "06_test_finetuned_single.py"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog="example: uv run 06_test_finetuned_single.py --compare --top 3"
    )
    add_output_dir(parser)
    who = parser.add_argument_group("who answers")
    who.add_argument("--base", action="store_true", help="the base model instead of the fine-tuned one")
    who.add_argument("--compare", action="store_true", help="both, side by side")
    who.add_argument("--system", metavar="TEXT", help="the system prompt (default: none)")
    add_device(who)

    how = parser.add_argument_group("how")
    how.add_argument("--restrict", action="store_true", help="only with labels of the run (default: free replies)")
    how.add_argument(
        "--top", type=bounded(int, 1, 100), metavar="N", help="show the N most probable labels (default: none)"
    )
    how.add_argument(
        "--temperature",
        type=bounded(float, 0, 5),
        default=0.0,
        help="sampling temperature (default: 0, greedy decoding: the same input has the same reply)",
    )
    how.add_argument(
        "--max-new-tokens",
        type=bounded(int, 1, 1024),
        default=20,
        help="the longest reply (default: 20; a label and its end are 2 or 3, and the base model never ends)",
    )
    how.add_argument("--json", action="store_true", help="one JSON object per reply, for pipes (default: plain text)")
    args = parser.parse_args(argv)
    if args.base and args.compare:
        parser.error("--base and --compare do not go together; --compare shows both")
    if args.system is not None and not args.system.strip():
        parser.error("--system is empty; leave it out to use none")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    output: OutputDirectory = args.output_dir
    interactive = sys.stdin is not None and sys.stdin.isatty()
    if interactive:
        print("Loading the model …", file=sys.stderr)

    # ---- read: the run of step 3; the data that it was trained on need not be there any more ---------------------
    if not args.base:
        run = load_verified_manifest("03_train_model.py", output, inputs=False)
    else:
        run = read_json(output.run, "03_train_model.py", output) if output.run.exists() else None
    if (args.restrict or args.top) and not run:
        train = rerun_command("03_train_model.py", output)
        raise UserError(f"--restrict and --top need the labels of a run; train one first: {train}")

    # Heavy imports: after the arguments, so that --help answers at once.
    from emojitune.inference.chat_model import load_base, load_finetuned

    models = []
    if args.base or args.compare:
        models.append(load_base(run, args.device))
    if not args.base:
        models.append(load_finetuned(output, run, args.device))

    # ---- chat ------------------------------------------------------------------------------------------------------
    if interactive:
        print("Chat started. Press Ctrl+C to exit.")
        print("No history is kept: every input is a new conversation.")
        print_system_prompt(args.system, run, output)
    try:
        for text in read_inputs(interactive):
            for model in models if text else ():
                reply(model, text, args, run["labels"] if run else [])
    except KeyboardInterrupt:
        if not interactive:
            raise
        print()
    return 0


def print_system_prompt(system: str | None, run: dict[str, Any] | None, output: OutputDirectory) -> None:
    trained = run.get("system_prompt") if run else None
    if system:
        print(f"System prompt: {sanitize(system)}")
    elif trained:
        command = rerun_command(SCRIPT, output, *system_flag(sanitize(trained)))
        print(f"No system prompt. The model was trained with one: {command}")


def read_inputs(interactive: bool) -> Iterator[str]:
    """Lines that are typed, or lines of a pipe or file.

    Raises:
        UserError: if a line of a pipe is neither UTF-8, with or without Windows' mark at its start, nor Shift_JIS.
    """
    if interactive:
        with contextlib.suppress(EOFError):
            while True:
                yield input("> ").strip()
        print()
        return
    for number, line in enumerate(sys.stdin.buffer if sys.stdin else (), 1):  # None when it is closed
        try:
            text = line.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = line.decode("cp932", errors="replace")
            if re.search("[\0\ue000-\uf8ff\ufffd]", text):  # what other encodings become, such as UTF-16
                raise UserError(
                    f"line {number} of the input is neither UTF-8 nor Shift_JIS; save it as UTF-8"
                ) from None
        yield text.strip()


def reply(model: "ChatModel", text: str, args: argparse.Namespace, labels: Sequence[str]) -> None:
    """Print one model's reply to one input."""
    from emojitune.inference.prompts import MAX_PROMPT_TOKENS, truncate_prompt

    prompt, was_cut = truncate_prompt(model.tokenizer, text, args.system)
    if was_cut:
        print(f"(only the first {MAX_PROMPT_TOKENS} tokens were read)", file=sys.stderr)
    ranked = model.rank_labels(prompt, labels) if args.restrict or args.top else []
    top = ranked[: args.top or 0]
    sampling = args.max_new_tokens, args.temperature
    if args.json:
        answer = ranked[0][0] if args.restrict else model.reply(prompt, *sampling)
        row = {"model": model.name, "text": text, "system": args.system, "reply": answer}
        if top:
            row["top"] = [{"label": label, "probability": round(probability, 6)} for label, probability in top]
        print(json.dumps(row, ensure_ascii=False), flush=True)
        return
    print(f"{model.name:11}" if args.compare else "", end="", flush=True)
    if args.restrict:
        print(sanitize(ranked[0][0]), end="")
    else:
        model.reply(prompt, *sampling, on_text=lambda piece: print(piece, end="", flush=True))
    print(flush=True)
    for label, probability in top:
        print(f"  {sanitize(label)} {probability:6.1%} {'█' * round(30 * probability)}", flush=True)


if __name__ == "__main__":
    sys.exit(run_main(main))
