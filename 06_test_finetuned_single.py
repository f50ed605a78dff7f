"""Step 6: chat with the fine-tuned model, or with the base model, one input at a time.

    uv run 06_test_finetuned_single.py --system "このツイートを絵文字で感情分類してください"
    echo 今日は最高 | uv run 06_test_finetuned_single.py

Every input starts a new conversation. The model was trained on short ones; with a long history behind it the replies
would soon repeat themselves, as step 5 shows.
"""

import argparse
import contextlib
import gc
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from emojitune.artifacts import OutputDirectory, UserError, checked_record, read_json
from emojitune.command_line import add_output_dir, exit_status, number

if TYPE_CHECKING:
    from emojitune.loading import Speaker

SCRIPT = "06_test_finetuned_single.py"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_output_dir(parser)
    who = parser.add_argument_group("who answers")
    who.add_argument("--base", action="store_true", help="the base model instead of the fine-tuned one")
    who.add_argument("--compare", action="store_true", help="both, side by side")
    who.add_argument("--system", metavar="TEXT", help="the system prompt (default: none)")
    who.add_argument(
        "--verify", action="store_true", help="hash all weights before use (default: look at size and time)"
    )

    how = parser.add_argument_group("how")
    how.add_argument(
        "--restrict", action="store_true", help="answer with labels of the run only (default: free replies)"
    )
    how.add_argument(
        "--top", type=number(int, 1, 100), metavar="N", help="show the N likeliest labels with their probabilities"
    )
    how.add_argument(
        "--temperature",
        type=number(float, 0, 5),
        default=0.0,
        help="above 0, draw each token by chance, the more freely the higher (default: 0, the likeliest token)",
    )
    how.add_argument(
        "--top-p",
        type=number(float, 0, 1, exclusive_low=True),
        default=1.0,
        help="with --temperature, draw only from the likeliest tokens that make up this share (default: 1, from all)",
    )
    how.add_argument(
        "--repetition-penalty",
        type=number(float, 0.1, 10),
        default=1.0,
        help="above 1, make tokens that occurred already less likely (default: 1, off)",
    )
    how.add_argument(
        "--max-new-tokens",
        type=number(int, 1, 1024),
        default=20,
        help="the longest reply (default: 20; a label and its end are 2, and the base model never ends)",
    )
    how.add_argument("--json", action="store_true", help="one JSON object a line, for pipes")
    args = parser.parse_args(argv)
    if args.base and args.compare:
        parser.error("--base and --compare do not go together; --compare shows both")
    if args.system is not None and not args.system.strip():
        parser.error("--system is empty; leave it out to use none")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    output: OutputDirectory = args.output_dir

    # ---- read --------------------------------------------------------------------------------------------------
    run = run_record(args, output)
    if (args.restrict or args.top) and not run:
        raise UserError("--restrict and --top need the labels of a run; train one first: uv run 03_train_model.py")
    speakers = Loading(lambda: load(args, output, run))  # takes ten seconds; nobody need wait to type

    # ---- chat --------------------------------------------------------------------------------------------------
    interactive, status = sys.stdin.isatty(), 0
    if interactive:
        print("Chat started. Press Ctrl+C to exit.")
        print("No history is kept: every input is a new conversation.")
        say_which_prompt(args.system, run)
    try:
        for text in inputs(interactive):
            if text.strip():
                answer(text.strip(), speakers.result(), args, run)
    except EOFError:
        print()
    except KeyboardInterrupt:
        print()
        status = 0 if interactive else 130
    speakers.abandon(status)
    return status


class Loading:
    """The models, loaded while the user types."""

    def __init__(self, load: Callable[[], "list[Speaker]"]) -> None:
        self.future: Future = Future()
        self.thread = threading.Thread(target=self._run, args=(load,), daemon=True)
        self.thread.start()

    def _run(self, load: Callable[[], "list[Speaker]"]) -> None:
        try:
            self.future.set_result(load())
        except BaseException as error:  # it is raised where the result is asked for
            self.future.set_exception(error)

    def result(self) -> "list[Speaker]":
        return self.future.result()

    def abandon(self, status: int) -> None:
        """Leave at once when the user has left: Python cannot stop a thread that imports, and would wait for it."""
        if self.thread.is_alive():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


def load(args: argparse.Namespace, output: OutputDirectory, run: dict | None) -> "list[Speaker]":
    """The models that are to answer, the base model first."""
    gc.disable()  # imports make millions of objects and no garbage; looking for it would take a tenth of the time
    try:
        from emojitune.loading import load_base, load_finetuned

        speakers = []
        if args.base or args.compare:
            speakers.append(load_base(run["base_model"]["name"] if run else "embedded", args.verify))
        if not args.base:
            speakers.append(load_finetuned(output, run))
        return speakers
    finally:
        gc.enable()


def run_record(args: argparse.Namespace, output: OutputDirectory) -> dict | None:
    """What 03 recorded; with --base the chat goes on without it."""
    if args.base and not output.run.exists():
        return None
    if args.base:
        return read_json(output.run, "03_train_model.py", output)
    return checked_record("03_train_model.py", output, args.verify)


def say_which_prompt(system: str | None, run: dict | None) -> None:
    trained = run.get("system_prompt") if run else None
    if system:
        print(f"System prompt: {system}")
    elif trained:
        print(f'No system prompt. The model was trained with: --system "{trained}"')


def inputs(interactive: bool) -> Iterator[str]:
    """Lines typed at the prompt, with line editing and history where the system has readline; or lines of a pipe."""
    if not interactive:
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
        yield from sys.stdin
        return
    with contextlib.suppress(ImportError):  # Windows has its own
        import readline  # noqa: F401 - importing it gives input() line editing and history
    while True:
        yield input("> ")


def answer(text: str, speakers: "list[Speaker]", args: argparse.Namespace, run: dict | None) -> None:
    """Print each speaker's reply to one input."""
    from emojitune.chat import MAX_PROMPT_TOKENS, Generation, fitting_prompt

    generation = Generation(args.temperature, args.top_p, args.repetition_penalty, args.max_new_tokens)
    for speaker in speakers:
        prompt, cut = fitting_prompt(speaker.tokenizer, text, args.system)
        if cut:
            print(f"(only the first {MAX_PROMPT_TOKENS} tokens were read)", file=sys.stderr)
        name = f"{speaker.name:11}" if len(speakers) > 1 and not args.json else ""
        if args.json:
            print(json.dumps(as_object(text, speaker, prompt, generation, args, run), ensure_ascii=False), flush=True)
            continue
        print(name, end="", flush=True)
        if args.restrict:
            print(speaker.likeliest(prompt, run["labels"])[0][0])
        else:
            speaker.reply(prompt, generation, write=lambda piece: print(piece, end="", flush=True))
            print(flush=True)
        if args.top:
            for label, probability in speaker.likeliest(prompt, run["labels"])[: args.top]:
                print(f"  {label} {probability:6.1%} {'█' * round(30 * probability)}")


def as_object(
    text: str, speaker: "Speaker", prompt: list[int], generation, args: argparse.Namespace, run: dict | None
) -> dict:
    """One reply for --json."""
    row = {"model": speaker.name, "text": text, "system": args.system}
    likeliest = speaker.likeliest(prompt, run["labels"]) if args.restrict or args.top else []
    row["reply"] = likeliest[0][0] if args.restrict else speaker.reply(prompt, generation)
    if args.top:
        row["top"] = [{"label": label, "probability": round(p, 6)} for label, p in likeliest[: args.top]]
    return row


if __name__ == "__main__":
    sys.exit(exit_status(main))
