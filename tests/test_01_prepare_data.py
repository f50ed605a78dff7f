"""Step 1: refusing bad data, and the report on good data."""

import json

import pytest
from conftest import SMALL_DATA, run_script, sample

SCRIPT = "01_prepare_data.py"


def prepare(path, output, *flags):
    return run_script(SCRIPT, "--data", path, "--output-dir", output, *flags)


def report_of(output):
    return json.loads((output / "01_data/report.json").read_text(encoding="utf-8"))


def test_report_and_picture(small_data, tmp_path, capsys):
    output = tmp_path / "out"
    assert prepare(small_data, output) == 0
    report = report_of(output)
    assert (report["samples"], report["turns"], report["labels"]) == (17, 20, 3)
    assert report["samples_per_label"] == {"😀": 6, "😭": 5, "😤": 6}
    assert report["conversations_by_turns"] == {"1": 15, "2": 1, "3": 1}
    assert report["balance"] == pytest.approx(5 / 6)
    assert report["expected_split"]["validation"] == 3
    assert report["data"]["name"] == "data.json" and len(report["data"]["sha256"]) == 64
    assert (output / "01_data/labels.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "Next: uv run 02_split_data.py --output-dir" in said
    assert "Expect overfitting after one or two epochs" in said


def test_refused_data_writes_nothing_and_names_every_sample(write_data, tmp_path, capsys):
    rows = [*SMALL_DATA, sample("", "😀"), sample("ふつうの文章です", "にこにこ")]
    assert prepare(write_data(rows), tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "sample 18: the text of the user is empty" in said
    assert "sample 19: the label must be exactly one emoji: にこにこ" in said
    assert "2 problems in 2 samples" in said
    assert not (tmp_path / "out").exists()


def test_too_many_tokens(write_data, tmp_path, capsys):
    rows = [*SMALL_DATA, sample("今日は電車が遅れて会議に間に合わなかった" * 3, "😤")]
    assert prepare(write_data(rows), tmp_path / "out", "--max-length", 48) == 2
    said = capsys.readouterr().err
    assert "sample 18:" in said and "above --max-length 48" in said


def test_choices_are_recorded_and_followed(small_data, tmp_path):
    output = tmp_path / "out"
    assert prepare(small_data, output, "--labels", "😀,😭", "--per-label", 2, "--turns", "single") == 0
    report = report_of(output)
    assert report["samples_per_label"] == {"😀": 2, "😭": 2}
    assert report["choices"]["labels"] == ["😀", "😭"] and report["choices"]["per_label"] == 2
    assert run_script("02_split_data.py", "--output-dir", output) == 0
    split = json.loads((output / "02_split/split.json").read_text(encoding="utf-8"))
    assert split["train_per_label"] == split["validation_per_label"] == {"😀": 1, "😭": 1}


def test_groups_and_weights(small_data, tmp_path):
    assert prepare(small_data, tmp_path / "a", "--groups") == 0
    assert set(report_of(tmp_path / "a")["samples_per_label"]) == {"😀", "😭", "😤"}
    assert prepare(small_data, tmp_path / "b", "--weights", "😀=0.5") == 0
    assert report_of(tmp_path / "b")["samples_per_label"]["😀"] == 3


@pytest.mark.parametrize(
    "flags",
    [
        ("--labels", "x"),
        ("--labels", "😀😭"),
        ("--weights", "😀"),
        ("--weights", "😀=nan"),
        ("--weights", "😀=-1"),
        ("--per-label", "0"),
        ("--max-samples", "１.5"),
        ("--max-length", "nan"),
        ("--turns", "some"),
        ("--output-dir", ""),
        ("--labels", "😀", "--groups"),
        ("--labels", "🐱"),
    ],
)
def test_bad_arguments(flags, small_data, tmp_path, capsys):
    assert prepare(small_data, tmp_path / "out", *flags) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_near_duplicates_are_listed_as_pairs(write_data, tmp_path, capsys):
    rows = [*SMALL_DATA, sample("夜中に窓がガタガタと鳴ってる", "😀")]
    assert prepare(write_data(rows), tmp_path / "out") == 0
    [pair] = report_of(tmp_path / "out")["near_duplicates"]
    assert pair["samples"] == [16, 18] and pair["similarity"] > 0.6
    assert "samples 16 and 18" in capsys.readouterr().out
