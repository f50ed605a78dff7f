"""What was tried to break the pipeline, how many times, and what happened: writes RELIABILITY.md.

    uv run benchmarks/reliability.py [--points 40]

Runs the tests that stop, starve, damage and mislead the scripts, and counts.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
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
    "test_report_page": "Hostile texts in the report",
}


def words(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--points", type=int, default=40, help="points to stop each script at (default: 40)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.xml"
        files = [f"tests/{name}.py" for name in TESTS]
        environment = {**os.environ, "CRASH_POINTS": str(args.points)}
        command = [sys.executable, "-m", "pytest", *files, f"--junitxml={result}"]
        status = subprocess.run(command, cwd=ROOT, env=environment).returncode
        cases = ElementTree.parse(result).getroot().iter("testcase")
        rows: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
        for case in cases:
            module = case.get("classname").split(".")[-1]
            tried = [int(p.get("value")) for p in case.iter("property") if p.get("name") == "tried"]
            bad = "failed" if case.find("failure") is not None or case.find("error") is not None else ""
            outcome = bad or ("skipped" if case.find("skipped") is not None else "held")
            rows[module, case.get("name").split("[")[0]].append((sum(tried) or 1, outcome))
    lines = [
        "# Reliability",
        "",
        f"Made by `uv run benchmarks/reliability.py --points {args.points}` on {date.today().isoformat()}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}. "
        "Each row is a test; “tried” counts its cases (stops, files, values, inputs), “held” those that ended as the "
        "test demands: the same artifacts as an undisturbed run, or one sentence and status 2.",
    ]
    for module, title in TESTS.items():
        lines += ["", f"## {title}", "", "| what | tried | held |", "| --- | --- | --- |"]
        for (where, name), outcomes in rows.items():
            if where == module:
                tried = sum(count for count, _ in outcomes)
                held = sum(count for count, outcome in outcomes if outcome == "held")
                lines.append(f"| {words(name)} | {tried:,} | {held:,} |")
    (ROOT / "RELIABILITY.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("Wrote RELIABILITY.md")
    return status


if __name__ == "__main__":
    sys.exit(main())
