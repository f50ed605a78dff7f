"""Step 3 with the tiny model: artifacts, resuming, stopping, refusing."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, run_script

from emojitune.artifacts import sha256_of

SCRIPT = "03_train_model.py"


def train(output, model, *more):
    return run_script(SCRIPT, "--output-dir", output, "--model", model, *more)


def weights_of(output):
    return sha256_of(output / "03_model/model.safetensors")


def test_help_needs_no_torch():
    code = f"import runpy, sys; sys.argv = ['{SCRIPT}', '--help']; runpy.run_path('{SCRIPT}', run_name='__main__')"
    checked = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", checked.replace("; ", "\n    ")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "default: 5e-4" in " ".join(done.stdout.split())


def test_writes_exactly_these_files(trained):
    written = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
    assert written == {
        ".lock",
        "01_data/dataset.jsonl",
        "01_data/labels.png",
        "01_data/report.json",
        "02_split/split.json",
        "02_split/train.jsonl",
        "02_split/validation.jsonl",
        "03_model/chat_template.jinja",
        "03_model/config.json",
        "03_model/generation_config.json",
        "03_model/model.safetensors",
        "03_model/tokenizer.json",
        "03_model/tokenizer_config.json",
        "03_training/adapter/README.md",
        "03_training/adapter/adapter_config.json",
        "03_training/adapter/adapter_model.safetensors",
        "03_training/loss_history.jsonl",
        "03_training/run.json",
        "03_training/started.json",
    }


def test_run_record_holds_what_it_takes_to_do_it_again(trained, tiny_model):
    run = json.loads((trained / "03_training/run.json").read_text(encoding="utf-8"))
    assert run["settings"]["epochs"] == 2 and run["settings"]["learning_rate"] == 5e-4 and run["settings"]["seed"] == 42
    assert run["base_model"] == {"name": str(tiny_model), "weights": run["base_model"]["weights"]}
    assert run["base_model"]["weights"]["model.safetensors"]["sha256"] == sha256_of(tiny_model / "model.safetensors")
    assert run["best_epoch"] in (1, 2) and len(run["epochs"]) == 2 and run["ended"] == "finished"
    assert run["labels"] == ["😀", "😭", "😤"]
    assert run["system_prompt"] == "このツイートを絵文字で感情分類してください"
    assert {"torch", "transformers", "peft", "trl"} <= run["versions"].keys()
    assert run["peak_memory_bytes"] > 10**8 and run["seconds"] > 0 and run["tokens_a_second"] > 0


def test_loss_history_has_the_point_before_training_and_each_epoch(trained):
    rows = [json.loads(line) for line in (trained / "03_training/loss_history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if "validation_loss" in row] == [0, 1, 2]
    assert any("training_label_loss" in row for row in rows)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_same_seed_gives_the_same_split_losses_and_weights_bitwise(method, prepared, tiny_model):
    found = set()
    for _ in range(2):
        assert run_script("02_split_data.py", "--output-dir", prepared) == 0
        assert train(prepared, tiny_model, "--method", method, "--epochs", 1) == 0
        files = ("02_split/train.jsonl", "02_split/validation.jsonl", "03_training/loss_history.jsonl")
        found.add((weights_of(prepared), *(sha256_of(prepared / file) for file in files)))
    assert len(found) == 1
    assert train(prepared, tiny_model, "--method", method, "--epochs", 1, "--seed", 7) == 0
    assert weights_of(prepared) not in found.pop()


def test_full_training_freezes_the_embeddings_unless_asked(prepared, tiny_model):
    from safetensors.torch import load_file

    before = load_file(tiny_model / "model.safetensors")["model.embed_tokens.weight"]
    for flags, same in (((), True), (("--train-embeddings",), False)):
        assert train(prepared, tiny_model, "--method", "full", "--epochs", 1, *flags) == 0
        after = load_file(prepared / "03_model/model.safetensors")["model.embed_tokens.weight"]
        assert bool((before == after).all()) is same


def test_gradient_checkpointing_and_accumulation_do_not_change_what_is_learnt(prepared, tiny_model):
    losses = []
    for flags in ((), ("--gradient-checkpointing",), ("--batch-size", 4, "--gradient-accumulation", 2)):
        assert train(prepared, tiny_model, "--epochs", 1, "--learning-rate", 1e-3, *flags) == 0
        run = json.loads((prepared / "03_training/run.json").read_text(encoding="utf-8"))
        losses.append(run["epochs"][0]["validation_loss"])
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-4)


def start(output, model, *more):
    command = [sys.executable, SCRIPT, "--output-dir", output, "--model", model, *more]
    return subprocess.Popen(
        [str(part) for part in command], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def wait_for_history(output, rows, process, seconds=90):
    history = output / "03_training/loss_history.jsonl"
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        if history.exists() and len(history.read_text().splitlines()) >= rows:
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate())


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_and_resumed_gives_the_weights_of_an_undisturbed_run(signum, status, prepared, tiny_model):
    flags = ("--epochs", 40, "--batch-size", 2, "--learning-rate", 1e-3)
    assert train(prepared, tiny_model, *flags) == 0
    undisturbed = weights_of(prepared)
    history = (prepared / "03_training/loss_history.jsonl").read_text()

    shutil.rmtree(prepared / "03_training")  # its history must not be taken for that of the next run
    process = start(prepared, tiny_model, *flags)
    wait_for_history(prepared, 12, process)
    process.send_signal(signum)
    asked = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert time.monotonic() - asked < 10  # the step under way, and the models written; another test runs beside this
    assert "Traceback" not in said
    assert train(prepared, tiny_model, "--resume") == 0
    assert weights_of(prepared) == undisturbed
    assert (prepared / "03_training/loss_history.jsonl").read_text() == history


def test_killed_and_resumed_gives_the_weights_of_an_undisturbed_run(prepared, tiny_model):
    flags = ("--epochs", 40, "--batch-size", 2, "--learning-rate", 1e-3)
    process = start(prepared, tiny_model, *flags)
    wait_for_history(prepared, 40, process)
    process.kill()
    process.communicate()
    assert not (prepared / "03_training/run.json").exists()
    checkpoints = list((prepared / "03_training/checkpoints").glob("checkpoint-*/adapter_model.safetensors"))
    assert 1 <= len(checkpoints) <= 3  # the third while the oldest is being deleted
    assert not list((prepared / "03_training/checkpoints").glob("checkpoint-*/model.safetensors"))
    assert train(prepared, tiny_model, "--resume") == 0
    resumed = weights_of(prepared)
    assert train(prepared, tiny_model, *flags) == 0
    assert weights_of(prepared) == resumed


def test_resume_refuses_other_settings_other_data_and_nothing(prepared, tiny_model, capsys):
    assert train(prepared, tiny_model, "--resume") == 2
    assert "started.json is missing" in capsys.readouterr().err
    assert train(prepared, tiny_model, "--epochs", 1) == 0
    capsys.readouterr()
    assert run_script(SCRIPT, "--output-dir", prepared, "--resume", "--epochs", 3) == 2
    assert "--epochs 3 is not what the interrupted run had (1)" in capsys.readouterr().err
    assert run_script(SCRIPT, "--output-dir", prepared, "--resume") == 2
    assert "holds no checkpoint to resume from" in capsys.readouterr().err
    assert run_script("02_split_data.py", "--output-dir", prepared, "--seed", 1) == 0
    assert run_script(SCRIPT, "--output-dir", prepared, "--resume") == 2
    assert "has changed since the run" in capsys.readouterr().err


def test_a_learning_rate_of_ten_stops_and_says_so(prepared, tiny_model, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_model, tmp_path / "loud")  # the tiny model is too quiet to explode
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"] *= 40
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    status = train(prepared, folder, "--method", "full", "--learning-rate", 10, "--epochs", 6)
    said = capsys.readouterr()
    assert "exploded" in said.out + said.err
    assert status in (0, 2) and "Traceback" not in said.err
    assert run_script("04_plot_loss.py", "--output-dir", prepared) == 0
    assert "Diverged" in capsys.readouterr().out


def test_early_stopping(prepared, tiny_model):
    flags = ("--epochs", 30, "--learning-rate", 0.03, "--early-stopping-patience", 2)
    assert train(prepared, tiny_model, *flags) == 0
    run = json.loads((prepared / "03_training/run.json").read_text(encoding="utf-8"))
    assert len(run["epochs"]) == run["best_epoch"] + 2 < 30


def test_dry_run_foretells_and_writes_nothing(prepared, tiny_model, capsys):
    assert train(prepared, tiny_model, "--dry-run") == 0
    assert "a step, so about" in capsys.readouterr().out
    assert not (prepared / "03_training/run.json").exists() and not (prepared / "03_model").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no/such/folder", "is no directory here and no hub id"),
        ("./nowhere", "is no directory here"),
        ("someone/a-model-that-is-not-there", "hub"),
    ],
)
def test_models_that_are_not_to_be_had(name, words, prepared, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert train(prepared, name) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") <= 2
    assert not (prepared / "03_model").exists()


def test_our_own_calls_raise_no_deprecation_warning(prepared, tiny_model):
    code = "import sys, runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-W", "always::FutureWarning", "-W", "always::DeprecationWarning", "-c", code, SCRIPT]
    command += ["--output-dir", str(prepared), "--model", str(tiny_model), "--epochs", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours = [line for line in done.stderr.splitlines() if "Warning" in line and str(ROOT / "emojitune") in line]
    assert not ours and SCRIPT + ":" not in done.stderr
