"""Step 5 with the tiny model: what it writes, what it compares, and what it does not leave behind."""

import json
import shutil

import pytest
from conftest import SYSTEM, run_script, sample

SCRIPT = "05_test_base.py"
BASE_FILES = {"base.json", "predictions_base.jsonl"}
ALL_FILES = BASE_FILES | {"finetuned.json", "predictions_finetuned.jsonl", "comparison.png", "report.html"}


def files(output):
    return {path.name for path in (output / "05_evaluation").iterdir()}


def result(output, name):
    return json.loads((output / f"05_evaluation/{name}.json").read_text(encoding="utf-8"))


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rewrite_split(output, change):
    """`change` gets the rows of both splits; the manifest of step 2 gets their new hashes."""
    from emojitune.artifacts import OutputDirectory, hash_files, write_json, write_jsonl

    output, manifest = OutputDirectory(output), json.loads((output / "02_split/split.json").read_text())
    for path in (output.train, output.validation):
        write_jsonl(path, change(path.stem, rows(path)))
    write_json(output.split, {**manifest, "outputs": hash_files(output, [output.train, output.validation])})


def test_writes_exactly_these_files(evaluated):
    assert files(evaluated) == ALL_FILES
    base, tuned = result(evaluated, "base"), result(evaluated, "finetuned")
    assert base["weights"] != tuned["weights"] and base["against_base"] is None
    assert tuned["baselines"]["chance"] == pytest.approx(1 / 3)
    assert (
        tuned["against_base"]["samples"]
        == tuned["replies"]
        == len(rows(evaluated / "05_evaluation/predictions_base.jsonl"))
    )
    assert [turn["turn"] for turn in tuned["conversations"]["own"]] == list(
        range(1, len(tuned["conversations"]["own"]) + 1)
    )
    prompts = {
        name: [row["system"] for row in result(evaluated, name)["system_prompts"]] for name in ("base", "finetuned")
    }
    assert prompts["base"] == prompts["finetuned"] and prompts["base"][:2] == [SYSTEM, None]


def test_exact_accuracy_is_the_one_that_training_reported(evaluated):
    run = json.loads((evaluated / "03_training/run.json").read_text(encoding="utf-8"))
    best = next(epoch for epoch in run["epochs"] if epoch["epoch"] == run["best_epoch"])
    assert result(evaluated, "finetuned")["scores"]["exact_accuracy"]["rate"] == pytest.approx(best["exact_accuracy"])


def test_a_base_only_evaluation_leaves_no_results_of_an_earlier_model(evaluated, capsys):
    shutil.rmtree(evaluated / "03_training")
    assert run_script(SCRIPT, "--quick", "--model", evaluated / "03_model", "--output-dir", evaluated) == 0
    assert files(evaluated) == BASE_FILES and result(evaluated, "base")["conversations"] == {}
    said = capsys.readouterr().out
    assert f"Next: uv run 03_train_model.py --output-dir {evaluated}" in said


def test_the_diagnosis_is_of_this_run_whatever_step_4_wrote(evaluated):
    stale = {
        "kind": "overfitting",
        "title": "Of another run",
        "best_epoch": 7,
        "curve": {},
        "findings": [],
        "advice": [],
    }
    (evaluated / "04_loss/diagnosis.json").write_text(json.dumps(stale), encoding="utf-8")
    assert run_script(SCRIPT, "--quick", "--device", "cpu", "--output-dir", evaluated) == 0
    assert "Of another run" not in (evaluated / "05_evaluation/report.html").read_text(encoding="utf-8")


def test_the_base_model_answers_fewer_and_both_are_compared_on_those(evaluated, monkeypatch, capsys):
    import conftest

    script = conftest.script
    monkeypatch.setattr(conftest, "script", lambda name: vars(module := script(name)).update(BASE_SAMPLES=3) or module)
    assert run_script(SCRIPT, "--output-dir", evaluated) == 0
    base, tuned = result(evaluated, "base"), result(evaluated, "finetuned")
    assert base["samples"] == 3 < tuned["samples"] and base["replies"] == tuned["against_base"]["samples"]
    counts = {row["exact_accuracy"]["count"] for name in (base, tuned) for row in name["system_prompts"]}
    assert len(counts) == 1  # every prompt, and both models, on the same samples
    assert f"3 of {tuned['samples']} samples" in capsys.readouterr().out


def test_labels_that_training_never_had_are_counted(prepared, tiny_model, capsys):
    rewrite_split(prepared, lambda split, found: found + ([sample("吐きそう", "🤮")] if split == "validation" else []))
    assert run_script(SCRIPT, "--quick", "--model", tiny_model, "--output-dir", prepared) == 0
    assert "Left out: turns whose label no training sample has, 1 of " in capsys.readouterr().out


def test_words_as_labels_and_slices_by_a_field(prepared, tiny_model, capsys):
    words = {"😀": "joy", "😭": "sadness", "😤": "anger"}

    def change(split, found):
        for number, row in enumerate(found):
            row["messages"] = [{**m, "content": words.get(m["content"], m["content"])} for m in row["messages"]]
            row["form"] = ("実況", "愚痴")[number % 2]
        return found

    rewrite_split(prepared, change)
    assert run_script(SCRIPT, "--model", tiny_model, "--output-dir", prepared) == 0
    said, base = capsys.readouterr().out, result(prepared, "base")
    assert base["scores"]["group_accuracy"] is None and {part["value"] for part in base["slices"]} == {"実況", "愚痴"}
    assert "group accuracy" not in said and "Exact accuracy by form: worst " in said


def test_no_base_model_but_the_one_that_was_trained_or_plainly_another(evaluated, capsys):
    path = evaluated / "03_training/run.json"
    assert run_script(SCRIPT, "--model", evaluated / "03_model", "--output-dir", evaluated) == 2
    assert "is the fine-tuned model itself" in capsys.readouterr().err
    run = json.loads(path.read_text(encoding="utf-8"))
    run["base_model"]["weights"] = {"model.safetensors": "0" * 64}
    path.write_text(json.dumps(run), encoding="utf-8")
    assert run_script(SCRIPT, "--output-dir", evaluated) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "have changed since the run" in said
