"""Step 3 with the tiny model: artifacts, resuming, stopping, refusing."""

import shutil
import signal
import subprocess
import sys
from statistics import mean

import pytest
import torch
from conftest import ROOT, SYSTEM, load, run_script
from helpers.forked_runner import Runner
from helpers.slow_evaluation import slow_evaluation
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from emojitune.artifacts import OutputDirectory, read_jsonl, sha256_of, write_json
from emojitune.data.samples import load_samples
from emojitune.model import loading
from emojitune.model.loading import load_model, load_tokenizer
from emojitune.training.tokenization import tokenize

SCRIPT = "03_train_model.py"


def train(output, model, *more):
    return run_script(SCRIPT, "--output-dir", output, "--model", model, *more)


def resume(output, *more):
    return run_script(SCRIPT, "--output-dir", output, "--resume", *more)


def weights_of(output):
    return sha256_of(output / "03_model/model.safetensors")


def history_of(output):
    return sha256_of(output / "03_training/loss_history.jsonl")


def run_of(output):
    return load(output / "03_training/run.json")


def test_help_needs_no_torch():
    code = f"import runpy, sys\ntry: runpy.run_path('{SCRIPT}', run_name='__main__')\n"
    code += "finally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "default: 5e-4" in " ".join(done.stdout.split())


def test_main_shows_the_learner_the_steps_in_order():
    source = (ROOT / SCRIPT).read_text(encoding="utf-8")
    body = source[source.index("\ndef main(") :].split("\n\n\n")[0]
    shown = ["read_split", "tokenize", "highlight_labels", "LoraConfig", "SFTConfig", "SFTTrainer", "trainer.train"]
    positions = [body.index(f"{name}(") for name in shown]
    assert positions == sorted(positions)


def test_writes_exactly_these_files(trained):
    written = {path.relative_to(trained).as_posix() for path in trained.glob("03_*/**/*") if path.is_file()}
    model = "NOTICE README.md chat_template.jinja config.json generation_config.json model.safetensors tokenizer.json"
    training = "adapter/adapter_config.json adapter/adapter_model.safetensors loss_history.jsonl run.json settings.json"
    expected = {f"03_model/{name}" for name in [*model.split(), "tokenizer_config.json"]}
    assert written == expected | {f"03_training/{name}" for name in training.split()}


def test_run_record_holds_what_it_takes_to_do_it_again(trained, tiny_model):
    run = run_of(trained)
    assert run["settings"]["epochs"] == 2 and run["settings"]["learning_rate"] == 0.01 and run["settings"]["seed"] == 42
    weights = {"model.safetensors": sha256_of(tiny_model / "model.safetensors")}
    assert run["base_model"] == {"name": str(tiny_model), "weights": weights}
    assert run["best_epoch"] in (1, 2) and len(run["epochs"]) == 2 and run["ended"] == "finished"
    assert set(run["labels"]) == {"😀", "😭", "😤"}
    assert run["system_prompt"] == SYSTEM and {"torch", "transformers", "peft", "trl"} <= run["versions"].keys()
    assert set(run["inputs"]) == {"02_split/train.jsonl", "02_split/validation.jsonl"}
    model = {f"03_model/{path.name}" for path in (trained / "03_model").iterdir()}
    model -= {"03_model/README.md", "03_model/NOTICE"}
    assert set(run["outputs"]) == model | {"03_training/loss_history.jsonl"}
    assert run["peak_memory_bytes"] > 10**8 and run["seconds"] > 0
    output = OutputDirectory(trained)
    rows = read_jsonl(output.loss_history, SCRIPT, output)
    assert [row["epoch"] for row in rows if "validation_loss" in row] == [0, 1, 2]
    assert any("training_answer_loss" in row for row in rows)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_same_seed_gives_the_same_losses_and_weights_bitwise(method, prepared, tiny_model):
    results = set()
    for _ in range(2):
        assert train(prepared, tiny_model, "--method", method, "--epochs", 1) == 0
        results.add((weights_of(prepared), history_of(prepared)))
    assert len(results) == 1
    assert train(prepared, tiny_model, "--method", method, "--epochs", 1, "--seed", 7) == 0
    assert weights_of(prepared) not in results.pop()


def test_full_training_freezes_the_embeddings_unless_asked(prepared, tiny_model):
    before = load_file(tiny_model / "model.safetensors")["model.embed_tokens.weight"]
    for flags, same in (((), True), (("--train-embeddings",), False)):
        assert train(prepared, tiny_model, "--method", "full", "--epochs", 1, *flags) == 0
        after = load_file(prepared / "03_model/model.safetensors")["model.embed_tokens.weight"]
        assert bool((before == after).all()) is same


def test_gradient_checkpointing_and_accumulation_do_not_change_what_is_learnt(prepared, tiny_model):
    losses = []
    for flags in ((), ("--gradient-checkpointing",), ("--batch-size", 4, "--gradient-accumulation", 2)):
        assert train(prepared, tiny_model, "--epochs", 1, "--learning-rate", 1e-3, *flags) == 0
        losses.append(run_of(prepared)["epochs"][0]["validation_loss"])
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_stopped_and_resumed_gives_the_weights_of_an_undisturbed_run(number, status, prepared, tiny_model):
    flags = ("--model", tiny_model, "--epochs", 8, "--batch-size", 2, "--learning-rate", 1e-3)
    runner = Runner(SCRIPT, ["--output-dir", prepared, *flags])
    assert runner.run(stop_at=None) == 0
    undisturbed = weights_of(prepared), history_of(prepared)
    shutil.rmtree(prepared / "03_training")
    assert runner.run(stop_at=runner.writes // 2, signum=number) == status, runner.said
    assert "Traceback" not in runner.said
    weights = [path.name for path in (prepared / "03_training/checkpoints").glob("checkpoint-*/*model.safetensors")]
    assert set(weights) == {"adapter_model.safetensors"}
    assert len(weights) <= 3  # the third while the oldest is being deleted
    assert resume(prepared) == 0
    assert (weights_of(prepared), history_of(prepared)) == undisturbed


def test_early_stopping_counts_on_after_a_resume(prepared, tiny_model):
    """Its patience used to start anew, so that a resumed run had more epochs."""
    flags = ("--model", tiny_model, "--epochs", 30, "--learning-rate", 0.03, "--early-stopping-patience", 3)
    runner = Runner(SCRIPT, ["--output-dir", prepared, *flags])
    assert runner.run(stop_at=None) == 0
    undisturbed = run_of(prepared)
    assert len(undisturbed["epochs"]) == undisturbed["best_epoch"] + 3 < 30
    shutil.rmtree(prepared / "03_training")
    assert runner.run(stop_at=int(runner.writes * 0.8), signum=signal.SIGINT) == 130, runner.said
    assert resume(prepared) == 0
    assert len(run_of(prepared)["epochs"]) == len(undisturbed["epochs"])


def test_resume_refuses_other_settings_other_data_and_a_finished_run(prepared, tiny_model, capsys):
    def refusal(*flags):
        capsys.readouterr()
        assert resume(prepared, *flags) == 2
        return capsys.readouterr().err

    assert "settings.json is missing" in refusal()
    assert train(prepared, tiny_model, "--epochs", 1) == 0
    assert "--epochs cannot go with --resume" in refusal("--epochs", 3)
    assert "--epochs cannot go with --resume" in refusal("--epochs", 1)  # the default, but given
    assert "--dry-run cannot go with --resume" in refusal("--dry-run")
    assert f"with --model {prepared}/03_model" in refusal()
    assert run_script("02_split_data.py", "--output-dir", prepared, "--seed", 1) == 0
    assert "has changed since the run" in refusal()


def test_a_learning_rate_of_ten_stops_and_says_so(prepared, tiny_model, tmp_path, capsys):
    folder = shutil.copytree(tiny_model, tmp_path / "loud")  # the tiny model is too quiet to explode
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"] *= 40
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert train(prepared, folder, "--method", "full", "--learning-rate", 10, "--epochs", 1) == 2
    said = capsys.readouterr()
    assert "exploded before the first epoch ended, so no model is kept" in said.err
    assert not (prepared / "03_model").exists()
    assert run_script("04_plot_loss.py", "--output-dir", prepared) == 0
    assert "Diverged" in capsys.readouterr().out


def test_a_model_that_came_with_settings_for_sampling_is_saved_without(prepared, tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "sampling")
    sampling = {"do_sample": True, "temperature": 0.6, "min_p": 0.1, "top_p": 0.9, "eos_token_id": 1}
    write_json(folder / "generation_config.json", sampling)
    assert train(prepared, folder, "--epochs", 1) == 0
    assert not load(prepared / "03_model/generation_config.json").keys() & {"temperature", "min_p", "top_p"}


def test_a_run_of_one_step_learns(prepared, tiny_model):
    assert train(prepared, tiny_model, "--epochs", 1, "--batch-size", 64) == 0
    rows = read_jsonl(prepared / "03_training/loss_history.jsonl", "", OutputDirectory(prepared))
    before, after = (row["validation_loss"] for row in rows if "validation_loss" in row)
    assert after < before


def test_a_missing_tracker_is_one_sentence(prepared, tiny_model, capsys):
    assert train(prepared, tiny_model, "--report-to", "trackio") == 2
    assert "uv pip install trackio" in capsys.readouterr().err


def test_dry_run_estimates_and_writes_nothing(prepared, tiny_model, capsys):
    assert train(prepared, tiny_model, "--dry-run") == 0
    assert "s per step, so about" in capsys.readouterr().out
    assert not (prepared / "03_training").exists() and not (prepared / "03_model").exists()


def test_several_gpus_without_a_launcher_are_one_sentence(prepared, tiny_model, capsys, monkeypatch):
    monkeypatch.setattr(loading, "select_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert train(prepared, tiny_model) == 2
    said = capsys.readouterr().err
    assert "CUDA_VISIBLE_DEVICES=0" in said and "accelerate launch --num_processes 2" in said


@pytest.mark.parametrize("name", ["no/such/folder", "./nowhere"])
def test_models_that_cannot_be_found(name, prepared, capsys):
    assert train(prepared, name) == 2
    assert "is no directory here and no hub id" in capsys.readouterr().err


def test_our_own_calls_raise_no_deprecation_warning(prepared, tiny_model):
    code = "import sys, runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-W", "always::FutureWarning", "-W", "always::DeprecationWarning", "-c", code, SCRIPT]
    command += ["--output-dir", str(prepared), "--model", str(tiny_model), "--epochs", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours = [line for line in done.stderr.splitlines() if "Warning" in line and str(ROOT / "emojitune") in line]
    assert not ours and SCRIPT + ":" not in done.stderr


def test_merged_and_adapter_models_give_the_same_logits(trained, tiny_model):
    output = OutputDirectory(trained)
    merged = AutoModelForCausalLM.from_pretrained(output.model).eval()
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    adapter = PeftModel.from_pretrained(base, output.adapter).eval()
    ids = torch.tensor([[2, 3, 70, 71, 72, 73, 4]])
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, adapter(ids).logits, atol=1e-5)


def test_best_epoch_is_the_one_kept(prepared, tiny_model):
    """With a learning rate that ruins a later epoch, the best one's weights must be in 03_model."""
    assert train(prepared, tiny_model, "--epochs", 4, "--learning-rate", 0.05) == 0
    output = OutputDirectory(prepared)
    run = run_of(prepared)
    best = min(run["epochs"], key=lambda epoch: epoch["answer_loss"])
    assert run["best_epoch"] == best["epoch"]
    model = load_model(output.model, torch.device("cpu"), torch.float32)
    tokenizer = load_tokenizer(output.model)
    rows = tokenize(load_samples(read_jsonl(output.validation, "", output)), tokenizer, 512, "validation")
    _, answer_losses, _ = slow_evaluation(model, tokenizer, rows)
    assert mean(answer_losses) == pytest.approx(best["answer_loss"], rel=1e-4)
