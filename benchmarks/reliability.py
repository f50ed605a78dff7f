"""What was tried to break the pipeline, how many times, and what happened: writes RELIABILITY.md.

    uv run pytest --junitxml=result.xml
    uv run benchmarks/reliability.py result.xml

Counts what the tests did that stop, starve, damage and mislead the scripts.
"""

import argparse
import os
import platform
from collections import defaultdict
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
TESTS = {
    "test_crash": "Stopped anywhere",
    "test_03_train_model": "Training interrupted, resumed, misused",
    "test_artifacts": "Artifacts damaged, moved, stale; two runs at once",
    "test_hostile_data": "Broken datasets",
    "test_machine": "A bad machine; long use",
    "test_arguments": "Bad arguments",
    "test_no_code_from_data": "No code from data",
    "test_report_page": "Hostile texts in the report",
}


def outcome_of(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "held"


def table(outcomes: dict[str, list[tuple[int, str]]]) -> list[str]:
    """A row for each test: its name in words, how many cases it tried, how many held."""
    lines = ["| what | tried | held |", "| --- | --- | --- |"]
    for name, cases in outcomes.items():
        tried = sum(count for count, outcome in cases if outcome != "skipped")
        held = sum(count for count, outcome in cases if outcome == "held")
        if tried:
            lines.append(f"| {name.removeprefix('test_').replace('_', ' ')} | {tried:,} | {held:,} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("result", type=Path, help="what pytest --junitxml wrote")
    args = parser.parse_args()
    outcomes: dict[str, dict[str, list[tuple[int, str]]]] = defaultdict(lambda: defaultdict(list))
    for case in ElementTree.parse(args.result).getroot().iter("testcase"):
        module, name = case.get("classname").split(".")[-1], case.get("name").split("[")[0]
        tried = sum(int(p.get("value")) for p in case.iter("property") if p.get("name") == "tried")
        outcomes[module][name].append((tried or 1, outcome_of(case)))
    lines = [
        "# Reliability",
        "",
        f"Counted by `benchmarks/reliability.py` from a run of the test suite on {date.today().isoformat()}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}. "
        "Each row is a test, on a tiny random model; “tried” counts its cases (stops, files, values, inputs), “held” "
        "those that ended as the test demands, such as an undisturbed run's artifacts, or one sentence and status 2.",
    ]
    for module, title in TESTS.items():
        if module in outcomes:
            lines += ["", f"## {title}", "", *table(outcomes[module])]
    (ROOT / "RELIABILITY.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("Wrote RELIABILITY.md")


if __name__ == "__main__":
    main()
