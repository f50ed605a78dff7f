"""Step 2: the split, and the user's own validation file."""

import pytest
from conftest import SMALL_DATA, load, run_script, sample

SCRIPT = "02_split_data.py"


@pytest.fixture
def output(quick_step_1, small_data, tmp_path):
    """An output directory after step 1."""
    assert prepare(small_data, tmp_path / "out") == 0
    return tmp_path / "out"


def prepare(data, output, *flags):
    return run_script("01_prepare_data.py", "--data", data, "--output-dir", output, *flags)


def split(output, *flags):
    return run_script(SCRIPT, "--output-dir", output, *flags)


def manifest_of(output):
    return load(output / "02_split/split.json")


def test_the_split_and_its_manifest(output, capsys):
    assert split(output, "--validation-fraction", "0.4", "--seed", 7) == 0
    manifest = manifest_of(output)
    assert (manifest["train"], manifest["validation"], manifest["seed"]) == (11, 6, 7)
    assert manifest["validation_per_label"] == {"😀": 2, "😭": 2, "😤": 2}
    assert list(manifest["inputs"]) == ["01_data/dataset.jsonl"]
    assert list(manifest["outputs"]) == ["02_split/train.jsonl", "02_split/validation.jsonl"]
    said = capsys.readouterr().out
    assert "      11            6   all" in said and "Next: uv run 03_train_model.py --output-dir" in said


def test_texts_that_are_all_alike_are_not_called_the_same(quick_step_1, write_data, tmp_path, capsys):
    """An instruction before each text makes them near duplicates; it was said that no two of them differ."""
    texts = ("虹が見えた", "布団を干せた", "パン屋に寄った", "席を譲られた")
    rows = [sample(f"次のツイートの感情を絵文字一つで答えてください。{text}", "😀") for text in texts]
    assert prepare(write_data(rows), tmp_path / "out") == 0 == split(tmp_path / "out")
    said = capsys.readouterr().out
    assert load(tmp_path / "out/01_data/report.json")["expected_validation"] == 0  # it counted samples, not clusters
    assert "No label has two samples without near duplicates, so" in said and "what all texts share" in said


def test_an_edited_dataset_is_noticed(output, small_data, write_data, capsys):
    assert split(output) == 0 and "has changed" not in capsys.readouterr().out
    write_data(SMALL_DATA[:9], small_data.name)
    assert split(output) == 0
    said = capsys.readouterr().out
    assert f"Note: {small_data} has changed since step 1" in said and f"01_prepare_data.py --data {small_data}" in said
    small_data.unlink()
    assert split(output) == 0 and "has changed" not in capsys.readouterr().out


OWN = [
    sample("夜中に窓がガタガタ鳴ってるよ", "😤"),  # near one of the training split
    sample("けさは霧が深くて橋が見えない", "😀"),
    sample("子猫がひざの上で丸くなって寝ている", "🐱"),
    sample("子猫がひざの上で丸くなって寝ているよ", "🐱"),  # near another of its own side
]


def test_an_own_validation_file_is_measured_with(output, write_data, capsys):
    assert split(output, "--validation-data", write_data(OWN)) == 0
    manifest = manifest_of(output)
    assert (manifest["train"], manifest["validation"], manifest["near_duplicates_across"]) == (17, 4, 1)
    said = capsys.readouterr().out
    assert "near duplicates in the training split: 1 (the first: 1)" in said
    assert "no model can learn them: 🐱" in said


def test_an_own_validation_file_is_checked_and_chosen_from_as_the_dataset_was(output, small_data, write_data, capsys):
    bad = write_data([*OWN, sample("", "😀"), sample("ねむいねむいねむい", "😴")])
    assert split(output, "--validation-data", bad) == 2
    assert "sample 5: the text of the user is empty" in capsys.readouterr().err
    assert not (output / "02_split").exists()
    assert prepare(small_data, output, "--drop-invalid", "--labels", "😀,😤") == 0
    assert split(output, "--validation-data", bad) == 0
    assert manifest_of(output)["validation_per_label"] == {"😀": 1, "😤": 1}
    assert split(output, "--validation-data", write_data(OWN[2:])) == 2
    assert "leave no sample of" in capsys.readouterr().err
    assert prepare(small_data, output, "--groups") == 0
    assert split(output, "--validation-data", write_data(OWN)) == 2
    error = capsys.readouterr().err
    assert "no group for 🐱" in error and "the flags that step 1 had, so change the file" in error
