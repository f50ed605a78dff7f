"""Step 4 on runs that are finished, go on, or are compared. The histories are made up: nothing is trained."""

import re
import webbrowser

import pytest
from conftest import SMALL_DATA, load, run_script
from reporting.fakes import history

from emojitune.artifacts import OutputDirectory, hash_files, lock_output_dir, write_json, write_jsonl

PLOT = "04_plot_loss.py"


def make_run(root, rows, finished=True, samples=SMALL_DATA, validation=SMALL_DATA * 2, **settings):
    """An output directory after step 3, or while it runs."""
    output = OutputDirectory(root)
    write_jsonl(output.train, samples)
    write_jsonl(output.validation, validation)
    write_jsonl(output.loss_history, rows)
    split = hash_files(output, [output.train, output.validation])
    write_json(output.split, {"inputs": {}, "outputs": split})
    run = {"settings": {"epochs": 4, "learning_rate": 5e-4, **settings}, "inputs": split}
    write_json(output.training / "settings.json", run)
    if finished:
        run |= {"outputs": hash_files(output, [output.loss_history])}
        write_json(output.run, run | {"best_epoch": 2, "seconds": 600, "ended": "finished"})
    return output


OVERFITTING = history([2.9, 2.1, 1.5], [2.6, 1.9, 2.4])


@pytest.fixture
def output(tmp_path):
    return make_run(tmp_path / "out", OVERFITTING)


def test_it_writes_the_picture_and_the_same_diagnosis_each_time(output, capsys):
    assert run_script(PLOT, "--output-dir", output.root) == 0
    shown, first = capsys.readouterr().out, output.diagnosis.read_bytes()
    assert "Overfitting from epoch 3 on" in shown
    assert f"Next: uv run 05_test_base.py --output-dir {output.root}" in shown
    assert run_script(PLOT, output.root) == 0
    assert output.diagnosis.read_bytes() == first and output.loss_plot.stat().st_size > 10_000
    found = load(output.diagnosis)
    assert found["inputs"] == hash_files(output, [output.loss_history]) and found["kind"] == "overfitting"
    assert set(found) == {"inputs", "kind", "title", "best_epoch", "findings", "advice", "curve"}


def test_a_run_in_progress_is_plotted_while_step_3_holds_the_directory(tmp_path, capsys):
    output = make_run(tmp_path, OVERFITTING, finished=False)
    with output.loss_history.open("a") as file:
        file.write('{"step": 31, "epo')
    with lock_output_dir(output, "03_train_model.py"):
        assert run_script(PLOT, tmp_path) == 0
    shown = capsys.readouterr().out
    assert "The run has not finished" in shown and "05_test_base" not in shown
    assert output.loss_plot.exists() and not list(output.loss_plot.parent.glob(".emojitune-*"))


def test_several_runs_are_compared_in_one_picture_and_a_table_of_what_differs(output, tmp_path, capsys):
    slow = make_run(tmp_path / "slow", history([3.0, 2.8], [2.9, 2.7]), learning_rate=5e-5, samples=SMALL_DATA[:15])
    write_json(slow.run, load(slow.run) | {"seconds": None})  # it was resumed
    going = make_run(tmp_path / "going", history([2.9], []), finished=False, validation=SMALL_DATA)
    diverged = make_run(tmp_path / "diverged", history([99.0], []), finished=False)
    assert run_script(PLOT, output.root, diverged.root) == 0
    assert re.search(r"ended +finished +diverged", capsys.readouterr().out)
    assert run_script(PLOT, output.root, slow.root, going.root) == 0
    shown = capsys.readouterr().out
    assert "different validation samples" in shown
    table = {line.split("   ")[0].strip(): line.split()[-3:] for line in shown.splitlines() if line}
    assert table["learning rate"] == ["0.0005", "5e-05", "0.0005"] and table["training samples"] == ["17", "15", "17"]
    assert "epochs" not in table and table["best epoch"] == ["2", "2", "-"]
    assert table["validation loss"] == ["1.900", "2.700", "-"] and table["training loss"] == ["2.100", "2.800", "-"]
    assert table["exact accuracy"] == ["44.0%", "44.0%", "-"] and table["minutes"][:2] == ["10.0", "-"]
    assert (output.root / "04_loss/compare.png").exists() and not output.loss_plot.exists()


def test_show_opens_the_written_picture(output, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    assert run_script(PLOT, output.root, "--show") == 0 and opened == [output.loss_plot.resolve().as_uri()]
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    assert run_script(PLOT, output.root, "--show") == 2 and str(output.loss_plot) in capsys.readouterr().err


def test_a_foreign_history_is_one_sentence(output, capsys):
    output.run.unlink()
    write_jsonl(output.loss_history, [{"epoch": 1.0, "training_loss": 2.0, "training_label_loss": 1.0}])
    assert run_script(PLOT, output.root) == 2 and "not of this version" in capsys.readouterr().err


def test_an_unfinished_run_is_not_described_by_the_counts_of_another_split(tmp_path, capsys):
    going = make_run(tmp_path, OVERFITTING, finished=False)
    started = load(going.settings)
    make_run(tmp_path, OVERFITTING, finished=False, samples=SMALL_DATA[:15])
    write_json(going.settings, started)
    assert run_script(PLOT, tmp_path) == 2 and "is of a run on another split" in capsys.readouterr().err
