"""Step 3 with the tiny model: artifacts, resuming, stopping, refusing."""

import shutil
import signal
from statistics import mean

import pytest
import torch
from conftest import SYSTEM, load, run_script
from helpers.forked_runner import Runner
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, modeling_utils

from emojitune.artifacts import OutputDirectory, read_jsonl, sha256_of, write_json
from emojitune.data.samples import load_samples
from emojitune.model import loading
from emojitune.model.loading import end_of_turn_id, load_model, load_tokenizer
from emojitune.training.tokenization import IGNORE_INDEX, tokenize
from emojitune.training.trainer import SharedPrefixSFTTrainer

SCRIPT = "03_train_model.py"


def train(output, model, *more):
    return run_script(SCRIPT, "--output-dir", output, "--model", model, *more)


def resume(output, *more):
    return run_script(SCRIPT, "--output-dir", output, "--resume", *more)


def learnt(output):
    """The hashes of the weights and of the loss history."""
    return [sha256_of(output / name) for name in ("03_model/model.safetensors", "03_training/loss_history.jsonl")]


def run_of(output):
    return load(output / "03_training/run.json")


def test_writes_exactly_these_files(trained):
    written = {path.relative_to(trained).as_posix() for path in trained.glob("03_*/**/*") if path.is_file()}
    model = "NOTICE README.md chat_template.jinja config.json generation_config.json model.safetensors tokenizer.json"
    training = "adapter/adapter_config.json adapter/adapter_model.safetensors loss_history.jsonl run.json settings.json"
    expected = {f"03_model/{name}" for name in [*model.split(), "tokenizer_config.json"]}
    assert written == expected | {f"03_training/{name}" for name in training.split()}


def test_run_record_holds_what_it_takes_to_do_it_again(trained, tiny_model):
    run = run_of(trained)
    assert run["settings"]["epochs"] == 2 and run["settings"]["learning_rate"] == 0.05 and run["settings"]["seed"] == 42
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
        results.add(tuple(learnt(prepared)))
    assert len(results) == 1
    assert train(prepared, tiny_model, "--method", method, "--epochs", 1, "--seed", 7) == 0
    assert learnt(prepared)[0] not in results.pop()


def test_full_training_freezes_the_embeddings_alone(prepared, tiny_model):
    assert train(prepared, tiny_model, "--method", "full") == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_model, prepared / "03_model"))
    assert {name for name in before if torch.equal(before[name], after[name])} == {"model.embed_tokens.weight"}


def test_gradient_checkpointing_and_accumulation_do_not_change_what_is_learnt(prepared, tiny_model, monkeypatch):
    losses, recomputed = [], []
    checkpoint = modeling_utils.checkpoint
    monkeypatch.setattr(modeling_utils, "checkpoint", lambda *a, **k: recomputed.append(1) or checkpoint(*a, **k))
    for flags in ((), ("--gradient-checkpointing",), ("--batch-size", 4, "--gradient-accumulation", 2)):
        assert train(prepared, tiny_model, "--epochs", 1, "--learning-rate", 1e-3, *flags) == 0
        losses.append(run_of(prepared)["epochs"][0]["validation_loss"])
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-4) and recomputed


def test_stopped_and_resumed_gives_the_weights_of_an_undisturbed_run(prepared, tiny_model):
    flags = ("--model", tiny_model, "--epochs", 4, "--batch-size", 2, "--learning-rate", 1e-3)
    runner = Runner(SCRIPT, ["--output-dir", prepared, *flags])
    assert runner.run() == 0
    undisturbed, middle = learnt(prepared), runner.writes // 2
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)):
        shutil.rmtree(prepared / "03_training")
        assert runner.run(stop_at=middle, signum=number) == status and "Traceback" not in runner.said, runner.said
        weights = [path.name for path in (prepared / "03_training/checkpoints").glob("*/*model.safetensors")]
        assert set(weights) == {"adapter_model.safetensors"}
        assert len(weights) <= 3  # the third while the oldest is being deleted
        assert resume(prepared) == 0
        assert learnt(prepared) == undisturbed
        assert run_of(prepared)["seconds"] is None  # it used to be that of the last part


def test_early_stopping_counts_on_after_a_resume(prepared, tiny_model):
    """Its patience used to start anew, so that a resumed run had more epochs."""
    flags = ("--model", tiny_model, "--epochs", 30, "--learning-rate", 0.03, "--early-stopping-patience", 3)
    runner = Runner(SCRIPT, ["--output-dir", prepared, *flags])
    assert runner.run() == 0
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
    write_json(prepared / "03_training/settings.json", {"epochs": 1})
    assert "or another version of 03_train_model.py started it" in refusal()


def test_resume_refuses_a_base_model_or_a_number_of_processes_that_has_changed(prepared, tiny_model, tmp_path, capsys):
    """It would add what was learnt to other weights."""
    base = shutil.copytree(tiny_model, tmp_path / "base")
    runner = Runner(SCRIPT, ["--output-dir", prepared, "--model", base, "--epochs", 9])
    assert runner.run(stop_at=20, signum=signal.SIGINT) == 130, runner.said
    settings = load(prepared / "03_training/settings.json")
    write_json(prepared / "03_training/settings.json", settings | {"processes": 2})  # other steps in each epoch
    assert resume(prepared) == 2
    assert "the number of processes has changed since the run" in capsys.readouterr().err
    write_json(prepared / "03_training/settings.json", settings)
    weights = load_file(base / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, base / "model.safetensors", {"format": "pt"})
    assert resume(prepared) == 2
    assert f"{base} has changed since the run" in capsys.readouterr().err


def test_a_learning_rate_of_a_hundred_stops_and_says_so(prepared, tiny_model, capsys):
    assert train(prepared, tiny_model, "--method", "full", "--learning-rate", 100) == 2
    assert "exploded before the first epoch ended, so no model is kept" in capsys.readouterr().err
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


@pytest.mark.parametrize("peak", [0, 2 * 10**9])
def test_dry_run_writes_nothing_and_memory_is_named_where_it_was_measured(
    peak, prepared, tiny_model, capsys, monkeypatch
):
    """On Windows it used to be 0.0 GB."""
    monkeypatch.setattr("emojitune.training.run_record.peak_memory_bytes", lambda: peak)
    for flags in (["--dry-run"], ["--epochs", 1]):
        assert not [*prepared.glob("03_*")]
        assert train(prepared, tiny_model, *flags) == 0
        said = capsys.readouterr().out
        assert ("at the peak" in said) == bool(peak) and ("s per step, so about" in said) == (len(flags) == 1)


def test_a_dry_run_measures_with_gradient_checkpointing(prepared, tiny_model, monkeypatch):
    enabled, step = [], SharedPrefixSFTTrainer.training_step
    monkeypatch.setattr(
        SharedPrefixSFTTrainer,
        "training_step",
        lambda self, model, *rest: enabled.append(model.is_activation_checkpointing) or step(self, model, *rest),
    )
    for flags in ([], ["--gradient-checkpointing"]):
        assert train(prepared, tiny_model, "--dry-run", *flags) == 0
    assert not enabled[0] and enabled[-1]


def test_a_run_does_not_overwrite_the_model_that_it_starts_from(trained, capsys):
    before = learnt(trained)
    assert train(trained, trained / "03_model") == 2
    assert "is where this run would write its own model" in capsys.readouterr().err and learnt(trained) == before


def test_several_gpus_without_a_launcher_are_one_sentence(prepared, tiny_model, capsys, monkeypatch):
    monkeypatch.setattr(loading, "select_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert train(prepared, tiny_model) == 2
    said = capsys.readouterr().err
    assert "CUDA_VISIBLE_DEVICES=0" in said and "accelerate launch --num_processes 2" in said


def cut_short(path):
    path.write_bytes(path.read_bytes()[:1000])


def changed(**changes):
    return lambda path: write_json(path, {**load(path), **changes})


def refusing(path):
    path.write_text("{{ raise_exception('System role not supported') }}")
    tokenizer = path.with_name("tokenizer.json")
    tokenizer.write_text(tokenizer.read_text().replace("<end_of_turn>", "<|im_end|>"))  # else the template is ours


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("model.safetensors", cut_short, "holds no model that transformers can read"),
        ("config.json", changed(num_hidden_layers=4, layer_types=4 * ["full_attention"]), "such as model.layers.2."),
        ("config.json", changed(hidden_size=32), "lacks weights that its config.json names"),
        ("tokenizer.json", cut_short, "has no tokenizer that transformers can read"),
        ("chat_template.jinja", refusing, "does not take these messages (System role not supported)"),
    ],
)
def test_a_damaged_or_unfit_model_is_one_sentence(file, damage, words, prepared, tiny_model, tmp_path, capsys):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    damage(folder / file)
    assert train(prepared, folder) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_models_that_cannot_be_found(prepared, capsys):
    for name in ("no/such/folder", "./nowhere"):
        assert train(prepared, name) == 2
        assert "is no directory here and no hub id" in capsys.readouterr().err


def test_merged_and_adapter_models_give_the_same_logits(trained, tiny_model):
    output = OutputDirectory(trained)
    merged = AutoModelForCausalLM.from_pretrained(output.model).eval()
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    adapter = PeftModel.from_pretrained(base, output.adapter).eval()
    ids = torch.tensor([[2, 3, 70, 71, 72, 73, 4]])
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, adapter(ids).logits, atol=1e-5)
    assert all(".mlp." in name for name in load_file(output.adapter / "adapter_model.safetensors"))


@torch.no_grad()
def slow_evaluation(model, tokenizer, rows):
    """The loss of each supervised token, of each but the ends of turns, and for each turn whether it is right."""
    losses, answer_losses, turns, right = [], [], [], True
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        for before, label in zip(logits, row["labels"][1:], strict=False):
            if label == IGNORE_INDEX:
                continue
            losses.append(-before[label].item())
            right &= before.argmax().item() == label
            if label == end_of_turn_id(tokenizer):
                turns.append(right)
                right = True
            else:
                answer_losses.append(losses[-1])
    return losses, answer_losses, turns


def test_the_best_epoch_is_kept_and_its_figures_are_those_of_a_slow_evaluation(prepared, tiny_model):
    """The first epoch that is worse ends this run, so that the best is never the last."""
    assert train(prepared, tiny_model, "--epochs", 30, "--learning-rate", 0.1, "--early-stopping-patience", 1) == 0
    output, (*_, best, last) = OutputDirectory(prepared), run_of(prepared)["epochs"]
    assert run_of(prepared)["best_epoch"] == best["epoch"] and best["answer_loss"] < last["answer_loss"]
    model, tokenizer = load_model(output.model, torch.device("cpu"), torch.float32), load_tokenizer(output.model)
    rows = tokenize(load_samples(read_jsonl(output.validation, "", output)), tokenizer, 512, "validation")
    found = [mean(values) for values in slow_evaluation(model, tokenizer, rows)]
    names = ("validation_loss", "answer_loss", "exact_accuracy")
    assert found == pytest.approx([best[name] for name in names], rel=1e-4) and 0 < found[2] < 1
