"""Write the result tables of README.md, README.ja.md and docs/results.md from a run; no figure there is typed by hand.

    uv run benchmarks/update_docs.py --output-dir outputs

Needs steps 1 to 5 and benchmarks/posts.py. The figures go to docs/results.json, and from there into the tables between
the marks `<!-- results -->` and `<!-- /results -->`; `tests/test_docs.py` fails when the two drift apart.
"""

import argparse
import json
import re
import sys
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from emojitune.artifacts import OutputDirectory, read_json, write_json, write_text
from emojitune.cli import output_directory
from emojitune.stats import Rate

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs/results.json"
WORDS = {
    "en": {
        "head": ("", "base", "fine-tuned", "character n-gram model"),
        "exact": "exact accuracy",
        "group": "same emotion group",
        "top3": "label among the three most probable",
        "format": "answers exactly one emoji",
        "posts": "exact on 500 posts of other writers",
        "note": "{replies:,} validation replies ({base} for the base model), 95 % intervals in brackets; chance is "
        "{chance}.",
    },
    "ja": {
        "head": ("", "元のモデル", "学習後", "文字 n-gram モデル"),
        "exact": "完全一致",
        "group": "同じ感情グループ",
        "top3": "上位 3 つに正解が入る",
        "format": "絵文字 1 つだけで答える",
        "posts": "別の書き手による 500 投稿での完全一致",
        "note": "検証データの返答 {replies:,} 件(元のモデルは {base} 件)。括弧内は 95 % 区間。"
        "当てずっぽうなら {chance}。",
    },
}


def collect(output: OutputDirectory) -> dict[str, Any]:
    """The figures of a run that the documents show."""
    run = read_json(output.run, "03_train_model.py", output)
    names = {"base": "base.json", "finetuned": "finetuned.json", "posts": "posts.json"}
    evaluation = {key: read_json(output.evaluation / name, "05_test_base.py", output) for key, name in names.items()}
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return {
        "date": date.today().isoformat(),
        "machine": f"2 cores of an {cpu[1] if cpu else 'unknown CPU'}",
        "versions": run["versions"],
        "settings": run["settings"],
        "training_minutes": round(run["seconds"] / 60, 1),
        "peak_memory_gb": round(run["peak_memory_bytes"] / 1e9, 1),
        "epochs": run["epochs"],
        **evaluation,
    }


def show(rate: dict[str, Any] | None) -> str:
    return str(Rate(**rate)) if rate else "–"


def main_table(results: dict[str, Any], language: str) -> str:
    """The five rows of the READMEs."""
    words, posts = WORDS[language], results["posts"]["all"]
    base, tuned = (results[name]["scores"] for name in ("base", "finetuned"))
    baselines = results["finetuned"]["baselines"]
    rows = [
        words["head"],
        ("---",) * 4,
        (words["exact"], show(base["exact_accuracy"]), show(tuned["exact_accuracy"]), show(baselines["ngram"])),
        (words["group"], show(base["group_accuracy"]), show(tuned["group_accuracy"]), "–"),
        (words["top3"], show(base["restricted_top3_accuracy"]), show(tuned["restricted_top3_accuracy"]), "–"),
        (words["format"], show(base["format_rate"]), show(tuned["format_rate"]), "–"),
        (words["posts"], "–", show(posts["exact"]), show(posts["ngram"])),
    ]
    note = words["note"].format(
        replies=results["finetuned"]["replies"], base=results["base"]["replies"], chance=f"{baselines['chance']:.1%}"
    )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + f"\n\n{note}"


def details(results: dict[str, Any]) -> str:
    """The tables of docs/results.md."""
    tuned, posts = results["finetuned"], results["posts"]
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    lines = [
        f"{results['date']}, {results['machine']}, {versions}. Training took {results['training_minutes']} minutes "
        f"and {results['peak_memory_gb']} GB of memory at the peak. Log-loss {tuned['scores']['log_loss']:.3f}, "
        f"expected calibration error {tuned['scores']['calibration_error']:.3f}, "
        f"macro-F1 {tuned['scores']['macro_f1']:.3f}.",
        "",
        main_table(results, "en"),
        "",
        "By form, worst first:",
        "",
        "| form | replies | exact, free | exact, restricted | same group |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {row['value']} | {row['exact_accuracy']['count']} | {show(row['exact_accuracy'])} | "
            f"{show(row['restricted_exact_accuracy'])} | {show(row['group_accuracy'])} |"
            for row in tuned["slices"]
            if row["field"] == "form"
        ),
        "",
        "The yardstick, 500 posts of other writers, restricted replies:",
        "",
        "| posts | exact | same group | n-gram exact | n-gram group |",
        "| --- | --- | --- | --- | --- |",
        *(
            " | ".join([f"| {name} ({row['exact']['count']})", *map(show, row.values())]) + " |"
            for name, row in posts.items()
        ),
    ]
    if tuned["conversations"]:
        lines += ["", "Running conversations with the model's own replies as history:", ""]
        lines += ["| conversations | turn | exact | repeats the reply before |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {name} | {turn['turn']} | {show(turn['exact_accuracy'])} | {show(turn['repeat_rate'])} |"
            for name, turns in tuned["conversations"].items()
            for turn in turns
        ]
    if tuned["system_prompts"]:
        lines += [
            "",
            "With other system prompts:",
            "",
            "| prompt | exact, free | exact, restricted |",
            "| --- | --- | --- |",
        ]
        lines += [
            f"| {row['name']} | {show(row['exact_accuracy'])} | {show(row['restricted_exact_accuracy'])} |"
            for row in tuned["system_prompts"]
        ]
    return "\n".join(lines)


def documents(results: dict[str, Any]) -> dict[Path, str]:
    """What stands between the marks of each document."""
    return {
        ROOT / "README.md": main_table(results, "en"),
        ROOT / "README.ja.md": main_table(results, "ja"),
        ROOT / "docs/results.md": details(results),
    }


def filled(text: str, tables: str) -> str:
    """`text` with `tables` between its marks."""
    pattern = r"(<!-- results -->\n).*?(<!-- /results -->)"
    return re.sub(pattern, lambda match: f"{match[1]}{tables}\n{match[2]}", text, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output-dir", type=output_directory, default=OutputDirectory(Path("outputs")))
    args = parser.parse_args()
    write_json(RESULTS, collect(args.output_dir))
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    for path, tables in documents(results).items():
        write_text(path, filled(path.read_text(encoding="utf-8"), tables))
        print(f"Wrote the tables of {path.name}")


if __name__ == "__main__":
    main()
