"""Complete files or none, and stale or damaged ones noticed."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from itertools import product

import pytest
from conftest import ROOT, copy_of, run_script

from emojitune.artifacts import (
    OutputDirectory,
    UserError,
    atomic_write,
    atomic_write_dir,
    lock_output_dir,
    read_json,
    read_jsonl,
    remove_stale_temp_files,
    rerun_command,
    write_json,
)

DATA, SPLIT, TRAIN, PLOT = "01_prepare_data.py", "02_split_data.py", "03_train_model.py", "04_plot_loss.py"
EVALUATION, CHAT = "05_test_base.py", "06_test_finetuned_single.py"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path, folder = tmp_path / "a.json", tmp_path / "folder"
    path.write_text("old")
    folder.mkdir()
    with pytest.raises(RuntimeError), atomic_write(path) as file, atomic_write_dir(folder) as new:
        file.write_text("half")
        (new / "new").touch()
        raise RuntimeError
    assert path.read_text() == "old" and sorted(tmp_path.rglob("*")) == [path, folder]


def test_files_are_flushed_through_handles_that_windows_accepts(tmp_path, monkeypatch):
    """Its fsync refuses read-only handles, and no step could write a file."""
    fsync = os.fsync

    def windows_fsync(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", windows_fsync)
    write_json(tmp_path / "a.json", {"😀": 1})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"😀": 1}


def test_a_folder_killed_between_its_two_renames_comes_back(tmp_path):
    """The next step used to delete the old model and the new one."""
    folder = tmp_path / "03_model"
    folder.mkdir()
    (folder / "old").touch()
    folder.rename(tmp_path / ".old-03_model")
    (tmp_path / ".tmp-1-03_model").mkdir()
    remove_stale_temp_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["03_model"] and (folder / "old").exists()


def test_a_truncated_last_line_is_dropped_only_where_allowed(tmp_path):
    output, path = OutputDirectory(tmp_path), tmp_path / "rows.jsonl"
    path.write_bytes('{"a": 1}\n{"a": 2}\n{"b": "あ'.encode()[:-1])
    assert read_jsonl(path, TRAIN, output, allow_truncated_last_line=True) == [{"a": 1}, {"a": 2}]
    with pytest.raises(UserError, match=r"uv run 03_train_model\.py --output-dir"):
        read_jsonl(path, TRAIN, output)


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": 1', "[" * 10**5])
def test_what_is_not_json_is_refused_with_the_command_that_writes_it(text, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"run\.json is not complete JSON.*uv run 03_train_model\.py"):
        read_json(path, TRAIN, OutputDirectory(tmp_path))


def test_the_same_result_again_makes_nothing_stale(stages, tmp_path):
    """The manifests used to hold file times, and their hashes went into the next step's."""
    output = copy_of(stages["done"], tmp_path)
    for path in output.rglob("*"):
        os.utime(path, (4_000_000_000, 4_000_000_000))  # in the future: times say nothing, hashes do
    for script in (DATA, SPLIT):
        assert run_script(script, *stages[script][1], "--output-dir", output) == 0
    (output / "01_data/labels.png").unlink()  # only looked at
    for script in (SPLIT, PLOT, EVALUATION):
        flags = [*stages[script][1], *(["--quick", "--samples", 3] if script == EVALUATION else [])]
        assert run_script(script, *flags, "--output-dir", output) == 0


def refused(script, output, named, command, capsys):
    """The script says in one sentence which file is wrong, and which command writes it."""
    assert run_script(script, "--output-dir", output) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: "), said
    assert named in said and rerun_command(command, OutputDirectory(output)) in said, said


def split_again(output):
    assert run_script(SPLIT, "--output-dir", output, "--seed", 9) == 0


def names_a_file_outside(output):
    path = output / "03_training/run.json"
    run = json.loads(path.read_text(encoding="utf-8"))
    run["outputs"]["../../../etc/passwd"] = run["outputs"].popitem()[1]
    path.write_text(json.dumps(run), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "script", "named", "command"),
    [
        (split_again, PLOT, "train.jsonl", TRAIN),
        (split_again, EVALUATION, "train.jsonl", TRAIN),
        (names_a_file_outside, CHAT, "run.json", TRAIN),
        (lambda output: shutil.rmtree(output / "03_model"), CHAT, "03_model", TRAIN),
        (lambda output: shutil.rmtree(output / "02_split"), TRAIN, "split.json", SPLIT),
    ],
)
def test_what_is_stale_or_gone_is_named(damage, script, named, command, evaluated, capsys):
    damage(evaluated)
    capsys.readouterr()
    refused(script, evaluated, named, command, capsys)


FILES = {
    "01_data/report.json": (DATA, SPLIT),
    "02_split/split.json": (SPLIT, TRAIN),
    "03_training/run.json": (TRAIN, CHAT),
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
    "one bit flipped": lambda data: data[:9] + bytes([data[9] ^ 1]) + data[10:],
}
# A manifest is read as JSON, and nothing holds its hash.
UNNOTICED = [(name, way) for name in list(FILES)[:3] for way in ("grown", "one bit flipped")]


@pytest.mark.parametrize(("name", "way"), [case for case in product(FILES, WAYS) if case not in UNNOTICED])
def test_every_artifact_damaged_in_every_way(name, way, evaluated, capsys):
    path = evaluated / name
    damaged = WAYS[way](path.read_bytes())
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)
    writer, reader = FILES[name]
    refused(reader, evaluated, path.name, writer, capsys)


def test_a_second_run_is_refused_by_name_and_process(prepared, capsys):
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[2]); from pathlib import Path\n"
        "from emojitune.artifacts import OutputDirectory, lock_output_dir\n"
        "with lock_output_dir(OutputDirectory(Path(sys.argv[1])), '03_train_model.py'):\n"
        "    print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(prepared), str(ROOT)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        assert run_script(SPLIT, "--output-dir", prepared) == 2
        said = capsys.readouterr().err
        assert "03_train_model.py" in said and str(holder.pid) in said
    finally:
        holder.kill()
        holder.wait()
    assert run_script(SPLIT, "--output-dir", prepared) == 0  # the lock went with the process
    with lock_output_dir(OutputDirectory(prepared), "x"):
        pass
