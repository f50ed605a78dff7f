"""Write what README.md, README.ja.md and docs/results.md say of a run; no figure there is typed by hand.

    uv run benchmarks/update_docs.py --output-dir outputs --quick-dir outputs-quick

Needs run_pipeline.py with defaults, the same with --quick, benchmarks/posts.py and benchmarks/learning_curve.py. The
figures go to docs/results.json and from there between marks such as `<!-- results -->` and `<!-- /results -->`;
`tests/test_docs.py` fails when the two drift apart.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from emojitune.artifacts import OutputDirectory, read_json, write_json, write_text
from emojitune.cli import output_directory
from emojitune.model.base_model import EMBEDDED, find_base_model
from emojitune.stats import Rate
from run_pipeline import TWEETS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs/results.json"
SPEED = ROOT / "docs/speed.json"  # training_speed.py writes it
CURVE = "learning_curve/learning_curve.json"  # in the output directory
WORDS = {
    "en": {
        "head": ("", "base", "fine-tuned", "character n-gram model"),
        "exact": "exact accuracy",
        "group": "same emotion group",
        "top3": "label among the three most probable",
        "format": "answers exactly one emoji",
        "posts": "exact on posts of other writers: {posts} plain, {diary} diary-like",
        "replies": ("tweet", "base", "fine-tuned"),
        "speed": "time of a step, times ours",
        "share": "{steps} steps of 8 samples; ours takes {seconds:.1f} s, {share:.0%} of the {gflops:.0f} GFLOP/s of "
        "matrix products here. {date}, {machine}, {versions} unless the row names another version.",
        "cost": "Once everything is installed and unpacked, `--quick` takes {quick:.1f} minutes on 2 cores of an "
        "{machine}; the full run takes {whole:.0f} minutes, its training {memory} GB of memory and its evaluation a "
        "little more. On Linux, where PyTorch brings "
        "CUDA, the packages and the model fill {disk} GB of disk; on macOS and Windows it is much less. Each output "
        "folder takes 1.1 GB more.",
        "note": "{replies:,} validation replies ({base} for the base model), 95 % intervals in brackets; chance is "
        "{chance}. The n-gram model sees only which short runs of characters a text contains. By form, "
        "{worst} is the lowest and {best} the highest.",
        "curve": " Exact accuracy with fewer tweets per label, after {epochs} epochs: {points}.",
        "point": "{samples_per_label}: {rate}",
    },
    "ja": {
        "head": ("", "元のモデル", "学習後", "文字 n-gram モデル"),
        "exact": "完全一致",
        "group": "同じ感情グループ",
        "top3": "上位 3 つに正解が入る",
        "format": "絵文字 1 つだけで答える",
        "posts": "別の書き手の投稿での完全一致(平易な {posts} 件、日記風の {diary} 件)",
        "replies": ("ツイート", "元のモデル", "学習後"),
        "speed": "1 ステップの時間(emojitune を 1 とする)",
        "share": "8 サンプルのステップを {steps} 回計測。emojitune は 1 ステップ {seconds:.1f} 秒で、"
        "このマシンの行列積の速さ {gflops:.0f} GFLOP/s の {share:.0%} に当たります。{date}、{machine}、{versions}"
        "(表に別の版の記載がある行を除く)。",
        "cost": "インストールと初回のモデルの展開が済んでいれば、2 コアの {machine} で、`--quick` なら {quick:.1f} 分、"
        "全データなら {whole:.0f} 分かかり、メモリは学習で {memory} GB、評価ではもう少し多く使います。"
        "Linux では PyTorch に CUDA が付いてくるため、パッケージとモデルで {disk} GB のディスクを使います。"
        "macOS と Windows ではずっと少なく済みます。出力フォルダはそれぞれ、さらに 1.1 GB 使います。",
        "note": "検証データの返答 {replies:,} 件(元のモデルは {base} 件)。括弧内は 95 % 区間。"
        "当てずっぽうなら {chance}。n-gram モデルは、文に含まれる短い文字の並びしか見ません。"
        "形式別では {worst} が最低、{best} が最高です。",
        "curve": "ラベルごとのツイートを減らして {epochs} エポック学習させた場合の完全一致は、{points}。",
        "point": "{samples_per_label} 件で {rate}",
    },
}


def collect(output: OutputDirectory, quick: OutputDirectory) -> dict[str, Any]:
    """The figures of a run, and of one with --quick, that the documents show."""
    run = read_json(output.run, "03_train_model.py", output)
    names = {"base": "base.json", "finetuned": "finetuned.json", "posts": "posts.json"}
    evaluation = {key: read_json(output.evaluation / name, "05_test_base.py", output) for key, name in names.items()}
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return {
        "date": date.today().isoformat(),
        "machine": cpu[1].replace("(R)", "").removesuffix(" Processor") if cpu else "unknown CPU",
        "versions": run["versions"],
        "settings": run["settings"],
        "training_minutes": round(run["seconds"] / 60, 1),
        "peak_memory_gb": round(run["peak_memory_bytes"] / 1e9, 1),
        "disk_gb": round((size_of(Path(sys.prefix)) + size_of(find_base_model(EMBEDDED).folder)) / 1e9, 1),
        "epochs": run["epochs"],
        "pipeline": read_json(output.root / "pipeline.json", "run_pipeline.py", output),
        "quick": read_json(quick.root / "pipeline.json", "run_pipeline.py", quick)
        | {
            "exact_accuracy": read_json(quick.evaluation / "finetuned.json", "05_test_base.py", quick)["scores"][
                "exact_accuracy"
            ]
        },
        "replies": ask(output, run["system_prompt"]),
        "learning_curve": read_json(output.root / CURVE, "benchmarks/learning_curve.py", output),
        "speed": json.loads(SPEED.read_text(encoding="utf-8")),
        **evaluation,
    }


def size_of(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def ask(output: OutputDirectory, system: str) -> list[dict[str, str]]:
    """The replies of both models to the tweets of run_pipeline.py, as step 6 gives them."""
    command = [sys.executable, str(ROOT / "06_test_finetuned_single.py"), "--compare", "--json", "--system", system]
    done = subprocess.run(
        [*command, "--output-dir", str(output.root)], input="\n".join(TWEETS), stdout=subprocess.PIPE, encoding="utf-8"
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def show(rate: dict[str, Any] | None) -> str:
    return str(Rate(**rate)) if rate else "–"


def main_table(results: dict[str, Any], language: str) -> str:
    """The five rows of the READMEs."""
    words, posts = WORDS[language], {name: slices["all"] for name, slices in results["posts"].items()}
    base, tuned = (results[name]["scores"] for name in ("base", "finetuned"))
    baselines = results["finetuned"]["baselines"]
    rows = [
        words["head"],
        ("---",) * 4,
        (words["exact"], show(base["exact_accuracy"]), show(tuned["exact_accuracy"]), show(baselines["ngram"])),
        (words["group"], show(base["group_accuracy"]), show(tuned["group_accuracy"]), "–"),
        (words["top3"], show(base["restricted_top3_accuracy"]), show(tuned["restricted_top3_accuracy"]), "–"),
        (words["format"], show(base["format_rate"]), show(tuned["format_rate"]), "–"),
        (
            words["posts"].format(**{name: row["exact"]["count"] for name, row in posts.items()}),
            "–",
            *(", ".join(show(row[part]) for row in posts.values()) for part in ("exact", "ngram")),
        ),
    ]
    forms = [part for part in results["finetuned"]["slices"] if part["field"] == "form"]  # worst first
    note = words["note"].format(
        replies=results["finetuned"]["replies"],
        base=results["base"]["replies"],
        chance=f"{baselines['chance']:.1%}",
        worst=f"{forms[0]['value']} {show(forms[0]['exact_accuracy'])}",
        best=f"{forms[-1]['value']} {show(forms[-1]['exact_accuracy'])}",
    )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + f"\n\n{note}{learning_curve(results, language)}"


def learning_curve(results: dict[str, Any], language: str) -> str:
    """In a sentence, the exact accuracy after training on fewer samples."""
    words, curve = WORDS[language], results["learning_curve"]
    points = [words["point"].format(**point, rate=show(point["gemma"])) for point in curve["points"]]
    return words["curve"].format(epochs=curve["epochs"], points=("、" if language == "ja" else ", ").join(points))


def replies_table(results: dict[str, Any], language: str) -> str:
    replies = {(row["text"], row["model"]): row["reply"] for row in results["replies"]}
    rows = [WORDS[language]["replies"], ("---",) * 3]
    rows += [
        (text, replies[text, "base"], replies[text, "fine-tuned"]) for text in dict.fromkeys(t for t, _ in replies)
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def cost(results: dict[str, Any], language: str) -> str:
    return WORDS[language]["cost"].format(
        quick=results["quick"]["total_minutes"],
        whole=results["pipeline"]["total_minutes"],
        memory=results["peak_memory_gb"],
        machine=results["machine"],
        disk=results["disk_gb"],
    )


def speed_table(results: dict[str, Any], language: str) -> str:
    """Our training step beside its peers'."""
    speed, words = results["speed"], WORDS[language]
    peers = sorted(speed["peers"].items(), key=lambda item: item[1]["times_ours"][0])
    rows = [("", words["speed"]), ("---", "---")]
    rows += [(name, "{:.2f} ({:.2f}–{:.2f})".format(*peer["times_ours"])) for name, peer in peers if name != "ours"]
    note = words["share"].format(
        share=speed["share_of_gflops"],
        seconds=speed["peers"]["ours"]["seconds"],
        versions=speed["peers"]["ours"]["versions"],
        **speed,
    )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + f"\n\n{note}"


def details(results: dict[str, Any]) -> str:
    """The tables of docs/results.md."""
    tuned, posts = results["finetuned"], results["posts"]
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    lines = [
        f"{results['date']}, 2 cores of an {results['machine']}, {versions}. Training took "
        f"{results['training_minutes']} minutes and {results['peak_memory_gb']} GB of memory at the peak; the "
        f"packages and the model fill {results['disk_gb']} GB of disk. "
        f"Log-loss {tuned['scores']['log_loss']:.3f}, expected calibration error "
        f"{tuned['scores']['calibration_error']:.3f}, macro-F1 {tuned['scores']['macro_f1']:.3f}.",
        "",
        "Minutes of `uv run run_pipeline.py`, and with `--quick`, whose model is right in "
        f"{show(results['quick']['exact_accuracy'])} of its {results['quick']['exact_accuracy']['count']} replies:",
        "",
        "| | defaults | --quick |",
        "| --- | --- | --- |",
        *(
            f"| {script} | {minutes:.1f} | {results['quick']['minutes'][script]:.1f} |"
            for script, minutes in results["pipeline"]["minutes"].items()
        ),
        f"| all | {results['pipeline']['total_minutes']:.1f} | {results['quick']['total_minutes']:.1f} |",
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
        "The yardsticks, posts of writers who wrote nothing for training, restricted replies:",
        "",
        "| posts | exact | same group | n-gram exact | n-gram group |",
        "| --- | --- | --- | --- | --- |",
        *(
            " | ".join([f"| {name}, {part} ({row['exact']['count']})", *map(show, row.values())]) + " |"
            for name, slices in posts.items()
            for part, row in slices.items()
        ),
    ]
    curve = results["learning_curve"]
    lines += [
        "",
        f"The learning curve: exact accuracy on the same {curve['replies']:,} validation replies, by samples per label "
        f"in training, after {curve['epochs']} epochs:",
        "",
        "| samples per label | fine-tuned | n-gram |",
        "| --- | --- | --- |",
        *(f"| {p['samples_per_label']} | {show(p['gemma'])} | {show(p['ngram'])} |" for p in curve["points"]),
        "",
        "![Exact accuracy by samples per label](learning_curve.png)",
    ]
    if tuned["conversations"]:
        what = "own: the dataset's streams, strung: unrelated tweets"
        lines += ["", f"Running conversations with the model's own replies as history; {what}:", ""]
        lines += ["| conversations | turn | exact | same texts alone | repeats the reply before |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        lines += [
            f"| {name} | {turn['turn']} | {show(turn['exact_accuracy'])} "
            f"| {show(turn['alone']) if name == 'strung' else '–'} | {show(turn['repeat_rate'])} |"
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
    return "\n".join([*lines, "", "A training step beside other trainers:", "", speed_table(results, "en")])


def documents(results: dict[str, Any]) -> dict[Path, dict[str, str]]:
    """What stands between the marks of each document, by the name of the mark."""
    readmes = {"README.md": "en", "README.ja.md": "ja"}
    parts = {"replies": replies_table, "cost": cost, "results": main_table, "speed": speed_table}
    filled_in = {
        ROOT / name: {mark: write(results, language) for mark, write in parts.items()}
        for name, language in readmes.items()
    }
    filled_in[ROOT / "docs/performance.md"] = {"speed": speed_table(results, "en")}
    return filled_in | {ROOT / "docs/results.md": {"results": details(results)}}


def filled(text: str, parts: dict[str, str]) -> str:
    """`text` with each part between its marks."""
    for mark, part in parts.items():
        pattern = rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)"
        text = re.sub(pattern, lambda match, part=part: f"{match[1]}{part}\n{match[2]}", text, flags=re.DOTALL)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output-dir", type=output_directory, default=OutputDirectory(Path("outputs")))
    parser.add_argument("--quick-dir", type=output_directory, default=OutputDirectory(Path("outputs-quick")))
    args = parser.parse_args()
    write_json(RESULTS, collect(args.output_dir, args.quick_dir))
    shutil.copy((args.output_dir.root / CURVE).with_suffix(".png"), ROOT / "docs")
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    for path, parts in documents(results).items():
        write_text(path, filled(path.read_text(encoding="utf-8"), parts))
        print(f"Wrote the figures of {path.name}")


if __name__ == "__main__":
    main()
