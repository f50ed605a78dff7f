"""Complete files or none, and stale or damaged ones noticed."""

import fcntl
import os

import pytest
from conftest import STEPS, copy_of, load, run_script

from emojitune import artifacts
from emojitune.artifacts import OutputDirectory, UserError, write_json

DATA, SPLIT, TRAIN, PLOT, EVALUATION, CHAT = *STEPS, "06_test_finetuned_single.py"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path, folder = tmp_path / "a.json", tmp_path / "folder"
    path.write_text("old")
    folder.mkdir()
    with pytest.raises(RuntimeError), artifacts.atomic_write(path) as file, artifacts.atomic_write_dir(folder) as new:
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
    assert load(tmp_path / "a.json") == {"😀": 1}


def test_a_file_name_that_is_no_text_comes_back(tmp_path):
    """A name in another encoding than UTF-8, as old zip files have, ended step 1 with a traceback."""
    name = os.fsdecode(b"\x83c.csv")
    write_json(tmp_path / "a.json", {"name": name})
    assert load(tmp_path / "a.json") == {"name": name}


def test_a_folder_killed_between_its_two_renames_comes_back(tmp_path):
    """The next step used to delete the old model and the new one."""
    folder = tmp_path / "03_model"
    folder.mkdir()
    (folder / "old").touch()
    folder.rename(tmp_path / ".emojitune-old-03_model")
    (tmp_path / ".emojitune-tmp-1-03_model").mkdir()
    (tmp_path / ".tmp-notes").touch()  # somebody else's
    artifacts.remove_stale_temp_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"03_model", ".tmp-notes"} and (folder / "old").exists()


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": 1', "[" * 10**5])
def test_what_is_not_json_is_refused_with_the_command_that_writes_it(text, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"run\.json is not complete JSON.*uv run 03_train_model\.py"):
        artifacts.read_json(path, TRAIN, OutputDirectory(tmp_path))


def test_what_another_version_did_not_write_is_named(tmp_path):
    path = tmp_path / "run.json"
    path.write_text('{"settings": {"seed": 42}}')
    settings = artifacts.read_json(path, TRAIN, OutputDirectory(tmp_path))["settings"]
    assert settings == {"seed": 42}
    with pytest.raises(UserError, match=r"run\.json has no 'epochs', .*uv run 03_train_model\.py"):
        settings["epochs"]


def test_the_same_result_again_makes_nothing_stale(stages, tmp_path):
    """The manifests used to hold file times, and their hashes went into the next step's."""
    output = copy_of(stages["done"], tmp_path)
    manifests = [output / "01_data/report.json", output / "02_split/split.json"]
    written = list(map(load, manifests))
    for path in output.rglob("*"):
        os.utime(path, (4_000_000_000, 4_000_000_000))  # in the future: times say nothing, hashes do
    for script in (DATA, SPLIT):
        assert run_script(script, *stages[script][1], "--output-dir", output) == 0
    assert list(map(load, manifests)) == written
    (output / "01_data/labels.png").unlink()  # only looked at
    for script in (SPLIT, PLOT, EVALUATION):
        flags = [*stages[script][1], *(["--quick", "--samples", 3] if script == EVALUATION else [])]
        assert run_script(script, *flags, "--output-dir", output) == 0


def refused(script, output, named, command, capsys):
    """The script says in one sentence which file is wrong, and which command writes it."""
    assert run_script(script, "--output-dir", output) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: "), said
    assert named in said and artifacts.rerun_command(command, OutputDirectory(output)) in said, said


def split_again(output):
    assert run_script(SPLIT, "--output-dir", output, "--seed", 9) == 0


@pytest.mark.parametrize(
    ("damage", "script", "named", "command"),
    [
        (split_again, PLOT, "train.jsonl", TRAIN),
        (split_again, EVALUATION, "train.jsonl", TRAIN),
        (lambda output: (output / "01_data/dataset.jsonl").write_text(""), TRAIN, "dataset.jsonl", SPLIT),
    ],
)
def test_what_is_stale_is_named(damage, script, named, command, evaluated, capsys):
    damage(evaluated)
    capsys.readouterr()
    refused(script, evaluated, named, command, capsys)


MANIFESTS = {
    "01_data/report.json": (DATA, SPLIT),
    "02_split/split.json": (SPLIT, TRAIN),
    "03_training/run.json": (TRAIN, CHAT),
}
FILES = MANIFESTS | {
    "01_data/dataset.jsonl": (DATA, SPLIT),
    **dict.fromkeys(["02_split/train.jsonl", "02_split/validation.jsonl"], (SPLIT, TRAIN)),
    **dict.fromkeys(["03_model/config.json", "03_model/chat_template.jinja"], (TRAIN, CHAT)),
    **dict.fromkeys(["03_model/model.safetensors", "03_model/tokenizer.json"], (TRAIN, EVALUATION)),
    "03_training/loss_history.jsonl": (TRAIN, PLOT),
}  # each with the step that writes it and one that reads it


@pytest.mark.parametrize("name", FILES)
def test_every_artifact_damaged_in_every_way(name, evaluated, capsys):
    path, (writer, reader) = evaluated / name, FILES[name]
    data = path.read_bytes()
    flipped = bytes([data[0] ^ 1]) + data[1:]  # where a manifest holds the hash, as much as any other damage
    for damaged in (b"", data[: len(data) // 2], b"[]", b'{"version": 0}') if name in MANIFESTS else (flipped,):
        path.write_bytes(damaged)
        refused(reader, evaluated, path.name, writer, capsys)
    path.unlink()
    refused(reader, evaluated, path.name, writer, capsys)


def test_a_second_run_is_refused_by_name_and_process(prepared, capsys):
    with artifacts.lock_output_dir(OutputDirectory(prepared), TRAIN):
        assert run_script(SPLIT, "--output-dir", prepared) == 2
    assert f"{TRAIN} (process {os.getpid()}) is working in" in capsys.readouterr().err
    assert run_script(SPLIT, "--output-dir", prepared) == 0
