"""Step 1: refusing bad data, and the report on good data."""

import json
from pathlib import Path

import pytest
from conftest import SMALL_DATA, conversation, run_script, sample

SCRIPT = "01_prepare_data.py"


@pytest.fixture
def stubs(monkeypatch):
    """Neither counting tokens nor drawing is tested here, and each takes seconds."""
    monkeypatch.setattr("emojitune.model.loading.token_lengths", lambda rows: [len(str(row)) for row in rows])
    monkeypatch.setattr(
        "emojitune.reporting.figures.draw_labels", lambda counts, title, path: path.write_bytes(b"\x89PNG")
    )


def prepare(path, output, *flags):
    return run_script(SCRIPT, "--data", path, "--output-dir", output, *flags)


def report_of(output):
    return json.loads((output / "01_data/report.json").read_text(encoding="utf-8"))


def test_report_and_picture(small_data, tmp_path, capsys):
    output = tmp_path / "out"
    assert prepare(small_data, output, "--max-length", 60) == 0
    report = report_of(output)
    assert (report["samples"], report["turns"], report["turns_without_loss"]) == (17, 20, 0)
    assert report["samples_per_label"] == {"😀": 6, "😭": 5, "😤": 6}
    assert report["conversations_by_turns"] == {"1": 15, "2": 1, "3": 1}
    assert report["imbalance_ratio"] == pytest.approx(5 / 6)
    assert report["expected_validation"] == 3 and report["conversation_tokens"][2] < 60
    assert (report["data"]["name"], len(report["data"]["sha256"])) == (str(small_data), 64)
    assert report["inputs"] == {} and list(report["outputs"]) == ["01_data/dataset.jsonl"]
    assert (output / "01_data/labels.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "taken: messages as the conversation" in said and "tokens of Gemma's" in said
    assert "Next: uv run 02_split_data.py --output-dir" in said
    assert "Expect overfitting after one or two epochs; 300 samples would do" in said


def test_a_sample_is_as_long_as_the_one_that_is_trained_on(tmp_path, write_data, tokenizer, capsys):
    messages = sample("今日は電車が遅れて会議に間に合わなかった" * 3, "😤")["messages"]
    length = len(tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"])
    path = write_data([{"messages": messages}])
    assert prepare(path, tmp_path / "out", "--max-length", length) == 0
    assert prepare(path, tmp_path / "out", "--max-length", length - 1) == 2
    assert f"sample 1: {length} tokens, above --max-length {length - 1}" in capsys.readouterr().err


def test_refused_data_writes_nothing_and_names_every_sample(stubs, write_data, tmp_path, capsys):
    rows = [*SMALL_DATA, sample("", "😀"), sample("ふつうの文章です", "にこにこ")]
    assert prepare(write_data(rows), tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "2 problems in 2 samples; fix them" in said and "--drop-invalid" in said
    assert "sample 18: the text of the user is empty" in said
    assert "sample 19: the label must be exactly one emoji: にこにこ" in said
    assert not (tmp_path / "out").exists()


def test_of_many_problems_twenty_are_printed_and_all_are_written(stubs, write_data, small_data, tmp_path, capsys):
    output = tmp_path / "out"
    assert prepare(small_data, output) == 0
    before = report_of(output)
    capsys.readouterr()
    path = write_data([*SMALL_DATA, *[sample("", "😀")] * 30])
    assert prepare(path, output) == 2
    assert len(capsys.readouterr().err.splitlines()) == 22
    problems = json.loads((output / "01_data/problems.json").read_text(encoding="utf-8"))
    assert len(problems) == 30 and report_of(output) == before

    assert prepare(path, output, "--drop-invalid") == 0
    said = capsys.readouterr().out
    assert "Dropped 30 of 47 samples" in said and "… and 10 more" in said
    report = report_of(output)
    assert report["problems"] == problems and (report["read"], report["samples"]) == (47, 17)
    assert not (output / "01_data/problems.json").exists()


def test_repeats_are_dropped_and_conflicts_and_near_duplicates_listed(stubs, tmp_path, capsys):
    path = Path(__file__).parent / "data/cases/31-duplicates.csv"
    assert prepare(path, tmp_path / "out", "--drop-duplicates") == 0
    said = capsys.readouterr().out
    assert "sample 2: labelled 😴, but 😀 in sample 1" in said and "Dropped 1 of 5 samples" in said
    assert "samples 1 and 2 are 100% alike, with different labels" in said
    [pair] = report_of(tmp_path / "out")["near_duplicates"]
    assert (pair["first"], pair["second"], pair["similarity"]) == (1, 2, 1.0)


def test_labels_that_are_words(stubs, write_data, tmp_path, capsys):
    table = "text,label\n" + "".join(f"{i}番目の文章はこれ,{('怒り', '喜び')[i % 2]}\n" for i in range(20))
    output = tmp_path / "out"
    assert prepare(write_data(table, "a.csv"), output, "--labels", "怒り,喜び", "--weights", "怒り=0.5") == 0
    assert report_of(output)["samples_per_label"] == {"喜び": 10, "怒り": 5}
    assert run_script("02_split_data.py", "--output-dir", output) == 0
    assert "8            2   喜び" in capsys.readouterr().out


def test_fields_and_turns_without_loss_reach_the_split(stubs, write_data, tmp_path, capsys):
    rows = [{**row, "form": ("reply", "post")[i % 2], "id": str(i)} for i, row in enumerate(SMALL_DATA)]
    free = conversation([("やあ", "どうも"), ("電池が切れた", "😭")])
    free["messages"][2]["weight"] = 0
    output = tmp_path / "out"
    assert prepare(write_data([*rows, free]), output) == 0
    said = capsys.readouterr().out
    assert "kept beside each sample: form; not used: id" in said and "1 of them without loss" in said
    assert report_of(output)["fields"] == {"form": {"reply": 9, "post": 8}}
    assert run_script("02_split_data.py", "--output-dir", output, "--validation-fraction", 0.5) == 0
    lines = [
        json.loads(line)
        for name in ("train", "validation")
        for line in (output / f"02_split/{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert {row.get("form") for row in lines} == {"reply", "post", None} and free in lines


def test_choices_are_recorded_and_followed(stubs, small_data, tmp_path):
    output = tmp_path / "out"
    assert prepare(small_data, output, "--labels", "😀,:sob:", "--per-label", 2, "--turns", "single") == 0
    report = report_of(output)
    assert report["samples_per_label"] == {"😀": 2, "😭": 2}
    assert report["flags"]["labels"] == ["😀", "😭"] and report["flags"]["per_label"] == 2


def test_groups_and_weights(stubs, small_data, tmp_path):
    assert prepare(small_data, tmp_path / "a", "--groups") == 0
    assert set(report_of(tmp_path / "a")["samples_per_label"]) == {"😀", "😭", "😤"}
    assert prepare(small_data, tmp_path / "b", "--weights", "😀=0.5") == 0
    assert report_of(tmp_path / "b")["samples_per_label"]["😀"] == 3


BAD_FLAGS = """--labels x; --labels 😀,,😭; --weights 😀; --weights 😀=nan; --weights 😀=-1; --per-label 0;
    --max-samples １.5; --max-length nan; --turns some; --labels 😀 --groups; --labels 🐱; --encoding none;
    --text-column none; --output-dir=; --data="""


@pytest.mark.parametrize("flags", BAD_FLAGS.split(";"))
def test_bad_arguments(stubs, flags, small_data, tmp_path, capsys):
    assert prepare(small_data, tmp_path / "out", *flags.split()) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
