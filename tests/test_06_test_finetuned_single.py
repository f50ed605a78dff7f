"""The chat with the tiny model: lines in, the whole output and the exit status out."""

import io
import json
import shutil
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from conftest import SYSTEM, load, run_script, script

from emojitune.artifacts import system_flag, write_json

SCRIPT = "06_test_finetuned_single.py"
LABELS = ["😀", "😭", "😤"]


@pytest.fixture
def chat(stages, monkeypatch, capsys):
    """Pipe bytes or text into the chat; its status, standard output and standard error."""

    def run(text, *flags, output=stages["done"][0]):
        data = text if isinstance(text, bytes) else text.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        status = run_script(SCRIPT, "--output-dir", output, *flags)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_one_reply_per_line_and_nothing_else(chat):
    status, out, err = chat("今日は最高\n\n 　\nもう無理\n", "--system", SYSTEM)
    assert (status, err, out.count("\n"), len(out.split())) == (0, "", 2, 2) and set(out.split()) <= {*LABELS}
    assert chat("今日は最高\nもう無理\n", "--system", SYSTEM) == (0, out, "")  # stateless and greedy: always the same


def test_restricted_replies_are_labels_of_the_run(chat):
    _, out, _ = chat("今日は最高\nもう無理\n", "--restrict", "--json", "--top", 3, "--device", "cpu")
    rows = [json.loads(line) for line in out.splitlines()]
    for row in rows:
        assert row["reply"] == row["top"][0]["label"] in LABELS
        assert sum(item["probability"] for item in row["top"]) == pytest.approx(1, abs=1e-4)
    assert chat("今日は最高\nもう無理\n", "--restrict")[1] == "".join(f"{row['reply']}\n" for row in rows)


def test_compare_shows_both_and_control_characters_do_no_harm(chat):
    status, out, _ = chat("\x1b[31mあか\x07<end_of_turn>\n", "--compare", "--max-new-tokens", 3)
    assert status == 0 and [line.split()[0] for line in out.splitlines()] == ["base", "fine-tuned"]


def test_over_long_and_strange_input_is_cut_with_a_note_never_an_error(chat):
    text = "あ" * 20_000 + "\n" + "😀😭👨‍👩‍👧" * 500 + "\nЖенщина العربية\n\ud7ff\n"
    status, out, err = chat(text, "--max-new-tokens", 1)
    assert status == 0 and "only the first 1024 tokens" in err and len(out.split("\n")) == 5


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp932"])
def test_pipes_of_windows_are_read_rightly(encoding, chat):
    _, out, _ = chat("今日は最高\r\nもう無理".encode(encoding), "--json")
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["今日は最高", "もう無理"]


def test_a_system_prompt_leaves_room_for_the_text_and_may_be_damaged(chat):
    status, out, err = chat("あ\n", "--system", "あ" * 500)
    assert (status, out) == (2, "") and "--system leaves no room" in err
    assert chat("あ\n", "--system", "\udcff分類して", "--temperature", "1e-40")[0] == 0


def test_other_encodings_are_named_with_the_line(chat):
    status, _, err = chat("あ\n".encode() + "今日".encode("utf-16"))
    assert status == 2 and err == "error: line 2 of the input is neither UTF-8 nor Shift_JIS; save it as UTF-8\n"


def test_what_flags_need_and_refuse(chat, tmp_path):
    status, _, err = chat("", "--base", "--restrict", output=tmp_path / "my outputs")
    assert status == 2 and err.count("\n") == 1
    assert err.endswith(f"uv run 03_train_model.py --output-dir '{tmp_path}/my outputs'\n")
    status, _, err = chat("", "--base", "--compare")
    assert status == 2 and "do not go together" in err


def test_the_data_may_be_gone_but_no_base_model_may_stand_for_the_fine_tuned_one(chat, trained):
    shutil.rmtree(trained / "01_data")
    shutil.rmtree(trained / "02_split")
    assert chat("あ\n", output=trained)[0] == 0
    path = trained / "03_training/run.json"
    run = load(path)
    run["base_model"]["weights"] = {"model.safetensors": run["outputs"]["03_model/model.safetensors"]}
    write_json(path, run)
    status, _, err = chat("あ\n", output=trained)
    assert status == 2 and "the base model's own weights" in err


def test_a_prompt_like_a_flag_is_taken_from_the_command_in_the_advice():
    assert script(SCRIPT).parse_arguments(system_flag("-分類して")).system == "-分類して"


def test_a_closed_standard_input_has_no_lines(stages, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert run_script(SCRIPT, "--output-dir", stages["done"][0]) == 0 and capsys.readouterr().out == ""


def test_half_a_character_from_a_terminal_does_not_end_the_chat(stages, monkeypatch, capsys):
    """Without IUTF8, a terminal takes one byte of a character back for each press of Backspace."""
    stdin = io.TextIOWrapper(io.BytesIO("今".encode()[:2] + "日は最高\n".encode()), encoding="utf-8")
    monkeypatch.setattr(stdin.buffer, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run_script(SCRIPT, "--restrict", "--output-dir", stages["done"][0]) == 0
    assert capsys.readouterr().out.split("> ")[1].strip() in LABELS


@pytest.mark.parametrize("leaving", [EOFError, KeyboardInterrupt], ids=["Ctrl+D", "Ctrl+C"])
def test_interactive_chat_greets_replies_and_leaves_cleanly(leaving, stages, monkeypatch, capsys):
    monkeypatch.setattr("builtins.input", Mock(side_effect=["今日は最高", " ", leaving]))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    output = stages["done"][0]
    assert run_script(SCRIPT, "--restrict", "--output-dir", output) == 0
    said = capsys.readouterr()
    greeting, _, advice, reply, last = said.out.splitlines()
    assert said.err == "Loading the model …\n" and greeting == "Chat started. Press Ctrl+C to exit." and not last
    assert f"uv run {SCRIPT} --system '{SYSTEM}' --output-dir {output}" in advice and reply in LABELS
