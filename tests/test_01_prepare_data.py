"""Step 1: refusing bad data, and the report on good data."""

import pytest
from conftest import SMALL_DATA, conversation, load, run_script, sample

from emojitune.artifacts import OutputDirectory, read_jsonl

SCRIPT = "01_prepare_data.py"


def prepare(path, output, *flags):
    return run_script(SCRIPT, "--data", path, "--output-dir", output, *flags)


def report_of(output):
    return load(output / "01_data/report.json")


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


def test_of_many_problems_twenty_are_printed_and_all_are_written(
    quick_step_1, write_data, small_data, tmp_path, capsys
):
    output = tmp_path / "out"
    assert prepare(write_data([sample("", "😀")] * 20), output) == 2
    said = capsys.readouterr().err
    assert "20 problems in 20 samples; fix them" in said and "--drop-invalid" in said and not output.exists()
    assert len(said.splitlines()) == 21
    assert prepare(small_data, output) == 0
    before = report_of(output)
    capsys.readouterr()
    path = write_data([*SMALL_DATA, *[sample("", "😀")] * 30])
    assert prepare(path, output) == 2
    assert len(capsys.readouterr().err.splitlines()) == 22
    problems = load(output / "01_data/problems.json")
    assert len(problems) == 30 and report_of(output) == before

    assert prepare(path, output, "--drop-invalid") == 0
    said = capsys.readouterr().out
    assert "Dropped 30 of 47 samples" in said and "… and 10 more" in said
    report = report_of(output)
    assert report["problems"] == problems and (report["read"], report["samples"]) == (47, 17)
    assert not (output / "01_data/problems.json").exists()


def test_repeats_are_dropped_and_near_duplicates_listed(quick_step_1, write_data, tmp_path, capsys):
    path = write_data("text,label\nおはよう,😀\nおはよう,😴\n今日は最高,😀\n今日は最高,😀\n終電逃した,😭\n", "a.csv")
    assert prepare(path, tmp_path / "out", "--drop-duplicates") == 0
    said = capsys.readouterr().out
    assert "Dropped 1 of 5 samples; problems, see above: 2\n" in said
    assert "samples 1 and 2 are 100% alike, with different labels" in said
    [pair] = report_of(tmp_path / "out")["near_duplicates"]
    assert (pair["first"], pair["second"], pair["similarity"]) == (1, 2, 1.0)


def test_labels_that_are_words(quick_step_1, write_data, tmp_path, capsys):
    table = "Body,mood\n" + "".join(f"{i}番目の文章はこれ,{('怒り', '喜び')[i % 2]}\n" for i in range(20))
    output = tmp_path / "out"
    flags = "--text-column Body --label-column mood --encoding utf-8 --labels 怒り,喜び --weights 怒り=0.5"
    assert prepare(write_data(table, "a.csv"), output, *flags.split()) == 0
    assert report_of(output)["samples_per_label"] == {"喜び": 10, "怒り": 5}
    assert run_script("02_split_data.py", "--output-dir", output) == 0
    assert "8            2   喜び" in capsys.readouterr().out


def test_fields_and_turns_without_loss_reach_the_split(quick_step_1, write_data, tmp_path, capsys):
    rows = [{**row, "form": ("reply", "post")[i % 2], "id": str(i)} for i, row in enumerate(SMALL_DATA)]
    free = conversation([("やあ", "どうも"), ("電池が切れた", "😭")])
    free["messages"][2]["weight"] = 0
    output = tmp_path / "out"
    assert prepare(write_data([*rows, free]), output) == 0
    said = capsys.readouterr().out
    assert "kept beside each sample: form; not used: id" in said and "1 of them without loss" in said
    assert run_script("02_split_data.py", "--output-dir", output, "--validation-fraction", 0.5) == 0
    paths = OutputDirectory(output)
    split = [row for path in (paths.train, paths.validation) for row in read_jsonl(path, "", paths)]
    assert {row.get("form") for row in split} == {"reply", "post", None} and free in split


@pytest.mark.parametrize(
    ("flags", "counts"),
    [
        (["--labels", "😀,:sob:", "--per-label", 2, "--turns", "single"], {"😀": 2, "😭": 2}),
        (["--turns", "multi"], {"😀": 1, "😤": 1}),
        (["--groups"], {"😀": 7, "😭": 5, "😤": 6}),
        (["--max-samples", 6], {"😀": 2, "😭": 2, "😤": 1, "🥳": 1}),
    ],
)
def test_choices_are_followed_and_recorded(flags, counts, quick_step_1, write_data, tmp_path):
    assert prepare(write_data([*SMALL_DATA, sample("乾杯しよー", "🥳")]), tmp_path / "out", *flags) == 0
    report = report_of(tmp_path / "out")
    assert report["samples_per_label"] == counts
    assert report["flags"]["labels"] == (["😀", "😭"] if "--labels" in flags else None)


BAD_FLAGS = "--labels 😀,,😭; --labels 🐱; --labels 😀 --groups; --weights 😀; --weights 😀=nan; --weights 😀=-1"
BAD_FLAGS += "; --labels 😀 --weights 😭=2"


def test_bad_arguments(quick_step_1, small_data, tmp_path, capsys):
    for flags in map(str.split, BAD_FLAGS.split(";")):
        assert prepare(small_data, tmp_path / "out", *flags) == 2 and not (tmp_path / "out").exists()
        _, error = capsys.readouterr().err.split("error: ")
        assert "write 😀=" in error or flags != ["--weights", "😀"]
        assert flags[0] in error or "leave it out of the flags" in error, error
