"""Whole files or none, and stale or damaged ones noticed."""

import json
import shutil
import subprocess
import sys
import time

import pytest
from conftest import ROOT, run_script

from emojitune.artifacts import OutputDirectory, UserError, locked, read_jsonl, replacing, replacing_folder


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(RuntimeError), replacing_folder(folder) as temporary:
        (temporary / "new").touch()
        raise RuntimeError
    assert [file.name for file in folder.iterdir()] == ["old"]


def test_a_torn_last_line_is_dropped_only_where_allowed(tmp_path):
    output = OutputDirectory(tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"a": 1}\n{"a": 2}\n{"b": "あ'.encode()[:-1])
    assert read_jsonl(path, "03_train_model.py", output, torn_end=True) == [{"a": 1}, {"a": 2}]
    with pytest.raises(UserError, match=r"uv run 03_train_model\.py --output-dir"):
        read_jsonl(path, "03_train_model.py", output)


def damage_split(output):
    with (output / "02_split/train.jsonl").open("a", encoding="utf-8") as file:
        file.write("{}\n")


def edit_dataset(output):
    path = output / "01_data/dataset.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")


def split_again(output):
    assert run_script("02_split_data.py", "--output-dir", output, "--seed", 9) == 0


def flip_a_byte(output):
    path = output / "03_model/model.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_weights(output):
    path = output / "03_model/model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def cut_record(output):
    path = output / "03_training/run.json"
    path.write_text(path.read_text(encoding="utf-8")[:200], encoding="utf-8")


def another_version(output):
    (output / "03_training/run.json").write_text('{"version": 0}', encoding="utf-8")


def names_a_file_outside(output):
    path = output / "03_training/run.json"
    run = json.loads(path.read_text(encoding="utf-8"))
    run["outputs"]["../../../etc/passwd"] = run["outputs"].popitem()[1]
    path.write_text(json.dumps(run), encoding="utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_model):
    """An undamaged output directory after step 4."""
    folder = tmp_path_factory.mktemp("whole")
    data = folder / "data.json"
    from conftest import SMALL_DATA

    data.write_text(json.dumps(SMALL_DATA, ensure_ascii=False), encoding="utf-8")
    output = folder / "out"
    for script, *flags in (
        ("01_prepare_data.py", "--data", data),
        ("02_split_data.py",),
        ("03_train_model.py", "--model", tiny_model, "--epochs", 1),
        ("04_plot_loss.py",),
    ):
        assert run_script(script, *flags, "--output-dir", output) == 0
    return output


@pytest.mark.parametrize(
    ("damage", "script", "named", "command"),
    [
        (edit_dataset, "02_split_data.py", "dataset.jsonl", "uv run 01_prepare_data.py"),
        (edit_dataset, "03_train_model.py", "dataset.jsonl", "uv run 02_split_data.py"),
        (damage_split, "03_train_model.py", "train.jsonl", "uv run 02_split_data.py"),
        (damage_split, "05_test_base.py", "train.jsonl", "uv run 02_split_data.py"),
        (split_again, "04_plot_loss.py", "train.jsonl", "uv run 03_train_model.py"),
        (split_again, "05_test_base.py", "train.jsonl", "uv run 03_train_model.py"),
        (flip_a_byte, "05_test_base.py", "model.safetensors", "uv run 03_train_model.py"),
        (flip_a_byte, "06_test_finetuned_single.py", "model.safetensors", "uv run 03_train_model.py"),
        (cut_weights, "06_test_finetuned_single.py", "model.safetensors", "uv run 03_train_model.py"),
        (cut_record, "05_test_base.py", "run.json", "uv run 03_train_model.py"),
        (another_version, "06_test_finetuned_single.py", "run.json", "uv run 03_train_model.py"),
        (names_a_file_outside, "06_test_finetuned_single.py", "run.json", "uv run 03_train_model.py"),
        (lambda output: shutil.rmtree(output / "03_model"), "06_test_finetuned_single.py", "03_model", "03_train"),
        (lambda output: shutil.rmtree(output / "02_split"), "03_train_model.py", "split.json", "02_split_data.py"),
    ],
)
def test_damage_is_noticed_and_named(damage, script, named, command, whole, tmp_path, capsys):
    output = tmp_path / "moved"
    shutil.copytree(whole, output)
    damage(output)
    capsys.readouterr()
    assert run_script(script, "--output-dir", output) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: "), said
    assert (named in said and command in said and f"--output-dir {output}" in said) or script.startswith("06")


DATA, SPLIT, TRAIN, PLOT = "01_prepare_data.py", "02_split_data.py", "03_train_model.py", "04_plot_loss.py"
EVALUATION, CHAT = "05_test_base.py", "06_test_finetuned_single.py"
RECORDS = {
    "01_data/report.json": (DATA, SPLIT),
    "02_split/split.json": (SPLIT, TRAIN),
    "03_training/run.json": (TRAIN, CHAT),
}
FILES = {
    "01_data/dataset.jsonl": (DATA, SPLIT),
    "02_split/train.jsonl": (SPLIT, TRAIN),
    "02_split/validation.jsonl": (SPLIT, TRAIN),
    "03_training/loss_history.jsonl": (TRAIN, PLOT),
    "03_model/config.json": (TRAIN, CHAT),
    "03_model/generation_config.json": (TRAIN, CHAT),
    "03_model/tokenizer.json": (TRAIN, EVALUATION),
    "03_model/tokenizer_config.json": (TRAIN, CHAT),
    "03_model/chat_template.jinja": (TRAIN, CHAT),
    "03_model/model.safetensors": (TRAIN, EVALUATION),
}  # each with the step that writes it and one that reads it
WAYS = {
    "emptied": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "deleted": lambda data: None,
    "replaced": lambda data: b"[]",
    "of another version": lambda data: b'{"version": 0}',
    "grown": lambda data: data + b"\n",
    "one bit flipped": lambda data: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [*FILES, *RECORDS])
def test_every_artifact_damaged_in_every_way(name, way, whole, tmp_path, capsys):
    if name in RECORDS and way in ("grown", "one bit flipped"):
        pytest.skip("a record is read as JSON; those after it hold its hash")
    output = tmp_path / "moved"
    shutil.copytree(whole, output)
    path = output / name
    damaged = WAYS[way](path.read_bytes())
    if damaged is None:
        path.unlink()
    else:
        path.write_bytes(damaged)
    writer, reader = {**FILES, **RECORDS}[name]
    capsys.readouterr()
    assert run_script(reader, "--output-dir", output) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: "), said
    assert path.name in said and f"uv run {writer} --output-dir {output}" in said, said


def test_the_output_directory_may_be_moved_and_copied(whole, tmp_path, capsys):
    output = tmp_path / "somewhere" / "else"
    shutil.copytree(whole, output, copy_function=shutil.copyfile)  # new times: everything is hashed
    assert run_script("04_plot_loss.py", "--output-dir", output) == 0


def test_a_flipped_byte_with_the_old_time_is_found_with_verify(whole, tmp_path, capsys):
    import os

    output = tmp_path / "moved"
    shutil.copytree(whole, output)
    path = output / "03_model/model.safetensors"
    times = path.stat()
    flip_a_byte(output)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run_script("06_test_finetuned_single.py", "--output-dir", output, "--verify") == 2
    assert "model.safetensors" in capsys.readouterr().err


def test_a_second_run_is_refused_by_name_and_process(tmp_path, capsys, prepared):
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[2]); from pathlib import Path\n"
        "from emojitune.artifacts import OutputDirectory, locked\n"
        "with locked(OutputDirectory(Path(sys.argv[1])), '03_train_model.py'):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(prepared), str(ROOT)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        capsys.readouterr()
        assert run_script("02_split_data.py", "--output-dir", prepared) == 2
        said = capsys.readouterr().err
        assert "03_train_model.py" in said and str(holder.pid) in said
    finally:
        holder.kill()
        holder.wait()
    time.sleep(0.1)
    assert run_script("02_split_data.py", "--output-dir", prepared) == 0  # the lock went with the process
    with locked(OutputDirectory(prepared), "x"):
        pass
