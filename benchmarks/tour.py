"""Run the commands of docs/tour.md and put what came out into the tour, in both languages.

    uv run benchmarks/tour.py --exercises 1 2

Needs a finished run in outputs/. Of each exercise: the minutes that its commands took, what the last one printed, and
the picture that it names. Everything else in the pages stays as it is.
"""

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from emojitune.artifacts import write_text

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "docs/tour.md", ROOT / "docs/tour.ja.md"]


def exercises(page: str) -> list[str]:
    """The page in parts: what stands before the first exercise, then one part for each heading."""
    return re.split(r"(?=^## )", page, flags=re.MULTILINE)


def run(commands: list[str]) -> tuple[float, str]:
    """The minutes that shell commands take, and what the last of them prints on standard output."""
    start = time.perf_counter()
    for command in commands:
        print(f"$ {command}", flush=True)
        done = subprocess.run(command, shell=True, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8")
        if done.returncode:
            raise SystemExit(f"{command} ended with status {done.returncode}")
    return (time.perf_counter() - start) / 60, done.stdout


def filled(part: str, minutes: str, output: str) -> str:
    """An exercise with minutes and output between their marks."""
    part = re.sub(r"(<!-- minutes -->).*?(<!-- /minutes -->)", rf"\g<1>{minutes}\g<2>", part)
    block = "```text\n" + output.strip("\n") + "\n```\n"  # the spaces of a table's first line stay
    return re.sub(r"(<!-- output -->\n).*?(<!-- /output -->)", lambda m: m[1] + block + m[2], part, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--exercises", nargs="*", type=int, choices=range(1, 7), default=range(1, 7))
    args = parser.parse_args()
    for number in args.exercises:
        part = exercises(PAGES[0].read_text(encoding="utf-8"))[number]
        commands = re.search(r"```\n(.*?)```", part, flags=re.DOTALL)[1].splitlines()
        minutes, output = run(commands)
        for page in PAGES:
            parts = exercises(page.read_text(encoding="utf-8"))
            parts[number] = filled(parts[number], f"{minutes:.1f}", output)
            write_text(page, "".join(parts))
        for target, source in re.findall(r"\]\((tour/\S+)\) <!-- from (\S+) -->", part):
            shutil.copy(ROOT / source, ROOT / "docs" / target)


if __name__ == "__main__":
    main()
