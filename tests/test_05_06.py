"""Steps 5 and 6 with the tiny model: every file written, the chat by pipe, the page."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, run_script

EVALUATION, CHAT = "05_test_base.py", "06_test_finetuned_single.py"


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny_model):
    """An output directory after step 5."""
    from conftest import SMALL_DATA

    folder = tmp_path_factory.mktemp("done")
    (folder / "data.json").write_text(json.dumps(SMALL_DATA, ensure_ascii=False), encoding="utf-8")
    output = folder / "out"
    for script, *flags in (
        ("01_prepare_data.py", "--data", folder / "data.json"),
        ("02_split_data.py", "--validation-fraction", 0.4),
        ("03_train_model.py", "--model", tiny_model, "--epochs", 2, "--learning-rate", 0.01),
        ("04_plot_loss.py",),
        (EVALUATION,),
    ):
        assert run_script(script, *flags, "--output-dir", output) == 0
    return output


def chat(output, text, *flags):
    command = [sys.executable, CHAT, "--output-dir", str(output), *map(str, flags)]
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, encoding="utf-8")


def test_writes_exactly_these_files(done):
    assert {path.name for path in (done / "05_evaluation").iterdir()} == {
        "base.json",
        "finetuned.json",
        "predictions_base.jsonl",
        "predictions_finetuned.jsonl",
        "comparison.png",
        "report.html",
    }
    result = json.loads((done / "05_evaluation/finetuned.json").read_text(encoding="utf-8"))
    assert result["inputs"].keys() == {"02_split/train.jsonl", "02_split/validation.jsonl", "03_training/run.json"}
    assert 0 <= result["exact_accuracy"]["rate"] <= 1 and result["floor"]["chance"] == pytest.approx(1 / 3)
    assert result["weights"] != json.loads((done / "05_evaluation/base.json").read_text(encoding="utf-8"))["weights"]
    assert [turn["turn"] for turn in result["context"]["strung_together"]] == [1, 2, 3, 4, 5][
        : len(result["context"]["strung_together"])
    ]


def test_exact_accuracy_by_generation_is_the_one_that_training_reported(done):
    run = json.loads((done / "03_training/run.json").read_text(encoding="utf-8"))
    result = json.loads((done / "05_evaluation/finetuned.json").read_text(encoding="utf-8"))
    best = next(epoch for epoch in run["epochs"] if epoch["epoch"] == run["best_epoch"])
    assert result["exact_accuracy"]["rate"] == pytest.approx(best["exact_accuracy"])


def test_the_page_holds_everything_and_asks_nobody(done):
    page = (done / "05_evaluation/report.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=[\"'](?!data:)", page) and "<script" not in page
    assert page.count("data:image/png") > 5 and "prefers-color-scheme: dark" in page and "viewport" in page


def test_one_reply_a_line_and_nothing_else_on_standard_output(done):
    found = chat(done, "今日は最高\n\n 　\nもう無理\n")
    assert found.returncode == 0, found.stderr
    assert len(found.stdout.split("\n")) == 3 and found.stdout.endswith("\n")
    assert "Traceback" not in found.stderr
    assert chat(done, "今日は最高\nもう無理\n").stdout == found.stdout  # stateless and greedy: always the same


def test_restricted_replies_are_labels_of_the_run(done):
    found = chat(done, "今日は最高\nもう無理\n", "--restrict", "--json", "--top", 3)
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    for row in rows:
        assert row["reply"] == row["top"][0]["label"] in ["😀", "😭", "😤"]
        assert sum(item["probability"] for item in row["top"]) == pytest.approx(1, abs=1e-4)


def test_compare_shows_both_and_control_characters_do_no_harm(done):
    found = chat(done, "\x1b[31mあか\x07<end_of_turn>\n", "--compare", "--max-new-tokens", 3)
    assert found.returncode == 0
    assert [line.split()[0] for line in found.stdout.splitlines()] == ["base", "fine-tuned"]
    assert "\x1b" not in found.stdout and "\x07" not in found.stdout


def test_over_long_and_strange_input_is_cut_with_a_note_never_an_error(done):
    text = "あ" * 20_000 + "\n" + "😀😭👨‍👩‍👧" * 500 + "\nЖенщина العربية\n\ud7ff\n"
    found = chat(done, text, "--max-new-tokens", 1)
    assert found.returncode == 0, found.stderr
    assert "only the first 1024 tokens" in found.stderr
    assert len(found.stdout.split("\n")) == 5


@pytest.mark.parametrize(
    "flags",
    [
        ("--temperature", "nan"),
        ("--temperature", "-1"),
        ("--top-p", "0"),
        ("--top-p", "1.1"),
        ("--repetition-penalty", "0"),
        ("--max-new-tokens", "0"),
        ("--top", "x"),
        ("--system", " "),
        ("--base", "--compare"),
    ],
)
def test_bad_arguments(flags, tmp_path, capsys):
    assert run_script(CHAT, "--output-dir", tmp_path, *flags) == 2
    assert "error:" in capsys.readouterr().err


def test_without_a_model_one_sentence_and_the_command(tmp_path, capsys):
    assert run_script(CHAT, "--output-dir", tmp_path / "none") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "uv run 03_train_model.py" in said


def test_a_base_model_in_disguise_is_refused(done, tmp_path, capsys):
    output = tmp_path / "out"
    shutil.copytree(done, output)
    run = json.loads((output / "03_training/run.json").read_text(encoding="utf-8"))
    own = run["outputs"]["03_model/model.safetensors"]
    run["base_model"]["weights"] = {"model.safetensors": own}
    (output / "03_training/run.json").write_text(json.dumps(run), encoding="utf-8")
    found = chat(output, "あ\n")
    assert found.returncode == 2 and "the base model's own weights" in found.stderr


def test_interactive_chat_leaves_cleanly(done):
    """In a real terminal: the greeting, a reply, Ctrl+D."""
    import os
    import pty

    leader, follower = pty.openpty()
    command = [sys.executable, CHAT, "--output-dir", str(done), "--max-new-tokens", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    said = b""
    sent = False
    while True:
        try:
            piece = os.read(leader, 1000)
        except OSError:
            break
        if not piece:
            break
        said += piece
        if said.count(b"> ") == 1 and not sent:
            os.write(leader, "今日は最高\n".encode())
            sent = True
        elif sent and said.count(b"> ") >= 2:
            os.write(leader, b"\x04")
    text = said.decode(errors="replace")
    assert process.wait(timeout=30) == 0, text
    assert "Chat started. Press Ctrl+C to exit." in text and "No history is kept" in text
    assert 'The model was trained with: --system "このツイートを絵文字で感情分類してください"' in text
