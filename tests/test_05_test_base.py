"""Step 5 with the tiny model: what it writes, what it compares, and what it does not leave behind."""

import shutil

import pytest
from conftest import SYSTEM, load, run_script, sample, script

from emojitune.artifacts import OutputDirectory, hash_files, read_jsonl, write_json, write_jsonl

SCRIPT = "05_test_base.py"
BASE_FILES = {"base.json", "predictions_base.jsonl"}
TUNED_FILES = {"finetuned.json", "predictions_finetuned.jsonl", "comparison.png", "conversations.png", "report.html"}


def files(output):
    return {path.name for path in (output / "05_evaluation").iterdir()}


def result(output, name):
    return load(output / f"05_evaluation/{name}.json")


def test_writes_exactly_these_files(evaluated):
    assert files(evaluated) == BASE_FILES | TUNED_FILES
    base, tuned = result(evaluated, "base"), result(evaluated, "finetuned")
    assert base["weights"] != tuned["weights"] and base["against_base"] is None
    assert tuned["baselines"]["chance"] == pytest.approx(1 / 3)
    predicted = (evaluated / "05_evaluation/predictions_base.jsonl").read_bytes()
    assert tuned["against_base"]["samples"] == tuned["replies"] == predicted.count(b"\n")
    turns = {name: [turn["turn"] for turn in found] for name, found in tuned["conversations"].items()}
    assert turns == {"own": [1, 2, 3], "strung": [1, 2, 3, 4, 5]}
    prompts = [(row["name"], row["system"]) for row in tuned["system_prompts"]]
    assert prompts[:2] == [("training", SYSTEM), ("none", None)] and prompts[2][0] == "reworded"
    assert not base["system_prompts"]


def test_exact_accuracy_is_the_one_that_training_reported(evaluated):
    run = load(evaluated / "03_training/run.json")
    best = next(epoch for epoch in run["epochs"] if epoch["epoch"] == run["best_epoch"])
    found = result(evaluated, "finetuned")["scores"]["exact_accuracy"]["rate"]
    assert found == pytest.approx(best["exact_accuracy"]) and found > 0


def test_a_base_only_evaluation_leaves_no_results_of_an_earlier_model(evaluated, capsys):
    shutil.rmtree(evaluated / "03_training")
    assert run_script(SCRIPT, "--quick", "--model", evaluated / "03_model", "--output-dir", evaluated) == 0
    assert files(evaluated) == BASE_FILES and result(evaluated, "base")["conversations"] == {}
    assert f"Next: uv run 03_train_model.py --output-dir {evaluated}" in capsys.readouterr().out


def test_the_base_model_answers_fewer_and_both_are_compared_on_those(evaluated, monkeypatch, capsys):
    monkeypatch.setattr(script(SCRIPT), "BASE_SAMPLES", 3)
    (evaluated / "04_loss/diagnosis.json").write_text('{"title": "Of another run"}')
    assert run_script(SCRIPT, "--device", "cpu", "--samples", 5, "--output-dir", evaluated) == 0
    report = (evaluated / "05_evaluation/report.html").read_text(encoding="utf-8")
    assert "Of another run" not in report and "6 validation samples" in report  # step 3 measured on all six
    base, tuned = result(evaluated, "base"), result(evaluated, "finetuned")
    assert base["samples"] == 3 < tuned["samples"] == 5 and base["replies"] == tuned["against_base"]["samples"]
    counts = {row["exact_accuracy"]["count"] for row in tuned["system_prompts"]}
    assert len(counts) == 1  # every prompt on the same samples
    assert f"3 of {tuned['samples']} samples" in capsys.readouterr().out


def test_words_as_labels_slices_by_a_field_and_a_label_that_training_never_had(prepared, tiny_model, capsys):
    words = {"😀": "joy", "😭": "sadness", "😤": "anger"}
    output = OutputDirectory(prepared)
    for path, more in ((output.train, []), (output.validation, [sample("吐きそう", "disgust")])):
        rows = read_jsonl(path, "", output)
        for number, row in enumerate(rows):
            row["messages"] = [{**m, "content": words.get(m["content"], m["content"])} for m in row["messages"]]
            row["form"] = ("実況", "愚痴")[number % 2]
        write_jsonl(path, rows + more)
    write_json(output.split, {**load(output.split), "outputs": hash_files(output, [output.train, output.validation])})
    assert run_script(SCRIPT, "--model", tiny_model, "--output-dir", prepared) == 0
    said, base = capsys.readouterr().out, result(prepared, "base")
    assert base["scores"]["group_accuracy"] is None and {part["value"] for part in base["slices"]} == {"実況", "愚痴"}
    assert "Left out: turns whose label no training sample has, 1 of " in said and "It answers 6 of 6 samples" in said
    assert "group accuracy" not in said


def test_no_base_model_but_the_one_that_was_trained_or_plainly_another(evaluated, tiny_model, capsys):
    assert run_script(SCRIPT, "--model", evaluated / "03_model", "--output-dir", evaluated) == 2
    assert "is the fine-tuned model itself" in capsys.readouterr().err
    path = evaluated / "03_training/run.json"
    base = {"name": load(path)["base_model"]["name"], "weights": {"model.safetensors": "0" * 64}}
    write_json(path, load(path) | {"base_model": base})
    assert run_script(SCRIPT, "--output-dir", evaluated) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "have changed since the run" in said
    write_json(path, load(path) | {"base_model": base | {"name": "somebody/some-model"}})
    assert run_script(SCRIPT, "--model", tiny_model, "--output-dir", evaluated) == 0  # conversations as well
    name = f"base ({tiny_model.name})"
    assert result(evaluated, "base")["model"] == name
    assert f"<th>{name}" in (evaluated / "05_evaluation/report.html").read_text(encoding="utf-8")
