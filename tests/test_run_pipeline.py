"""The commands that run_pipeline runs; .ci/run runs them on the real model."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, script

from emojitune.artifacts import write_json


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    module = script("run_pipeline.py")

    def run(*flags, failing=None):
        commands = []

        def run_step(output, script, flags, text=None):
            commands.append([script, *flags])
            assert len((text or "").splitlines()) == (3 if script.startswith("06") else 0)
            write_json(output.run, {"system_prompt": "分類して", "seconds": 120})
            write_json(output.report, {"read": 4000, "samples": 250})
            return int(script == failing)

        monkeypatch.setattr(module, "run_step", run_step)
        return module.main([*flags, "--output-dir", str(tmp_path / "out")]), commands

    return run


def test_all_steps_run_in_order_and_three_tweets_are_answered_at_the_end(pipeline):
    status, commands = pipeline("--epochs", "3", "--model", "somebody/model")
    assert status == 0
    assert [command[0][:2] for command in commands] == ["01", "02", "03", "04", "05", "06"]
    assert commands[2] == ["03_train_model.py", "--model", "somebody/model", "--epochs", "3"]
    assert commands[4] == ["05_test_base.py", "--model", "somebody/model"]
    assert commands[5] == ["06_test_finetuned_single.py", "--compare", "--system", "分類して"]


def test_quick_takes_the_small_set_and_says_what_the_whole_would_take(pipeline, capsys):
    status, commands = pipeline("--quick")
    assert status == 0
    assert commands[0] == ["01_prepare_data.py", "--per-label", "10"] and "--quick" in commands[4]
    said = capsys.readouterr().out
    assert "seen too little" in said
    assert "All 4,000 samples instead of 250 train for about 11 minutes" in said  # 16 times 2, a third of the epochs


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_step_that_is_stopped_may_save_its_checkpoint(number, status, tmp_path):
    shutil.copy(ROOT / "run_pipeline.py", tmp_path)
    step = """if True:
        import pathlib, signal, time
        def save(*_):
            time.sleep(1)  # longer than subprocess.run waits
            pathlib.Path("saved").touch()
            raise SystemExit(1)
        signal.signal(signal.SIGINT, save)
        signal.signal(signal.SIGTERM, save)
        print("ready", flush=True)
        time.sleep(600)"""
    (tmp_path / "01_prepare_data.py").write_text(step)
    options = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}, "stdout": subprocess.PIPE}
    options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # jobs in the background ignore it
    process = subprocess.Popen([sys.executable, "run_pipeline.py"], start_new_session=True, **options)
    while process.stdout.readline() != b"ready\n":
        assert process.poll() is None
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)  # Ctrl+C reaches both
    assert process.wait(timeout=60) == status and (tmp_path / "saved").exists()


def test_a_step_that_the_system_kills_is_named(tmp_path):
    shutil.copy(ROOT / "run_pipeline.py", tmp_path)
    (tmp_path / "01_prepare_data.py").write_text("import os; os.kill(os.getpid(), 9)")
    options = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT)}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "run_pipeline.py"], **options)
    assert done.returncode == 137 and "error: 01_prepare_data.py was killed by signal 9" in done.stderr


def test_a_step_that_fails_ends_it_with_its_status(pipeline):
    status, commands = pipeline(failing="02_split_data.py")
    assert status == 1 and [command[0][:2] for command in commands] == ["01", "02"]
