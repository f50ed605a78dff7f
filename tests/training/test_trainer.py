"""The trainer against stock TRL, and against slow, obvious computations."""

import math
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from conftest import SMALL_DATA, random_model, sample, save
from peft import LoraConfig
from transformers import BloomConfig, BloomForCausalLM
from trl import SFTConfig, SFTTrainer

from emojitune.data.samples import load_samples
from emojitune.model.loading import end_of_turn_id, load_model
from emojitune.model.prefix_tree import samples_stay_apart, supports_prefix_tree
from emojitune.training.callbacks import StopEarly
from emojitune.training.tokenization import IGNORE_INDEX, tokenize
from emojitune.training.trainer import SharedPrefixSFTTrainer


def make_trainer(kind, folder, tokenizer, tmp_path, lora=True):
    config = SFTConfig(
        output_dir=str(tmp_path / "trainer"),
        per_device_train_batch_size=6,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        use_cpu=True,
        bf16=False,
        report_to="none",
    )
    rows = tokenize(load_samples(SMALL_DATA), tokenizer, 512, "training")
    torch.manual_seed(1)
    return kind(
        model=load_model(folder, torch.device("cpu"), torch.float32),
        args=config,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False) if lora else None,
    )


@pytest.mark.parametrize("merge", [True, False], ids=["tree", "flat"])
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize(("family", "changes"), [("gemma", {}), ("gemma", {"sliding_window": 6}), ("llama", {})])
def test_loss_and_gradients_equal_stock_trl(family, changes, lora, merge, tiny_tokenizer, tmp_path, monkeypatch):
    if not merge:
        monkeypatch.setattr("emojitune.model.prefix_tree._TREE_MODELS", ())
    folder = save(random_model(family, len(tiny_tokenizer), **changes), tiny_tokenizer, tmp_path / "model")
    results = {}
    for kind in (SFTTrainer, SharedPrefixSFTTrainer):
        trainer = make_trainer(kind, folder, tiny_tokenizer, tmp_path, lora)
        trainer.model.train()
        batch = next(iter(trainer.get_train_dataloader()))
        count = (batch["labels"] != IGNORE_INDEX).sum()
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=count)
        loss.backward()
        results[kind] = loss.item(), {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
        assert supports_prefix_tree(trainer.model) is merge
    (stock_loss, stock), (our_loss, ours) = results[SFTTrainer], results[SharedPrefixSFTTrainer]
    assert our_loss == pytest.approx(stock_loss, rel=1e-4)
    assert ours.keys() == stock.keys()
    for name, gradient in stock.items():
        assert torch.norm(ours[name] - gradient) <= 1e-4 * torch.norm(gradient) + 1e-9, name


def test_the_halves_of_a_large_batch_give_what_the_whole_gives(tiny_model, tiny_tokenizer, tmp_path, monkeypatch):
    trainer = make_trainer(SharedPrefixSFTTrainer, tiny_model, tiny_tokenizer, tmp_path)
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    trainer.args.per_device_eval_batch_size = trainer.args.per_device_train_batch_size
    batch, rows = next(iter(trainer.get_train_dataloader())), []
    count = (batch["labels"] != IGNORE_INDEX).sum()
    token_losses = trainer._token_losses
    monkeypatch.setattr(
        trainer, "_token_losses", lambda m, inputs: rows.append(len(inputs["labels"])) or token_losses(m, inputs)
    )
    results, sums = [], []
    for limit in (10_000, 33):
        monkeypatch.setattr("emojitune.training.trainer.LARGE_BATCH", limit)
        trainer.model.zero_grad()
        loss = trainer.training_step(trainer.model, dict(batch), count)
        results.append((loss, {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.requires_grad}))
        sums += trainer.prediction_step(trainer.model.eval(), dict(batch), False)[1:2]
        trainer.model.train()
    assert rows[:2] == [6, 6] and sum(rows[2:]) == 12 and rows[2:] == 2 * rows[2 : 1 + len(rows) // 2] != [6, 6]
    torch.testing.assert_close(*sums)
    assert torch.allclose(results[0][0], results[1][0])
    torch.testing.assert_close(*(gradients for _, gradients in results), rtol=1e-3, atol=1e-6)


def test_models_whose_samples_see_each_other_in_a_row_are_found_out():
    assert samples_stay_apart(random_model("gemma", 99)) and samples_stay_apart(random_model("llama", 99))
    torch.manual_seed(1)
    bloom = BloomForCausalLM(BloomConfig(vocab_size=99, hidden_size=16, n_layer=2, n_head=2, initializer_range=0.3))
    assert not samples_stay_apart(bloom.eval())


def test_a_batch_holds_each_common_prefix_once_and_ends_where_the_last_label_is_predicted(
    tiny_model, tiny_tokenizer, tmp_path
):
    trainer = make_trainer(SharedPrefixSFTTrainer, tiny_model, tiny_tokenizer, tmp_path)
    batch = {
        "input_ids": torch.tensor([[2, 5, 6, 7, 1, 9], [2, 5, 8, 1, 0, 0]]),
        "labels": torch.tensor([[-100, -100, -100, 7, 1, -100], [-100, -100, -100, 1, -100, -100]]),
    }
    seen = []
    _, _, ends, example = trainer._token_losses(lambda **row: seen.append(row) or trainer.model(**row), batch)
    [inputs] = seen
    assert inputs["input_ids"].tolist() == [[2, 5, 6, 7, 8]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 2]]
    assert inputs["attention_mask"]["full_attention"][0, 0].int().tolist()[4] == [1, 1, 0, 0, 1]
    assert inputs["logits_to_keep"].tolist() == [2, 3, 4]
    assert (ends.tolist(), example.tolist()) == ([False, True, True], [0, 0, 1])


def test_gradients_that_are_denormal_numbers_and_slow_a_cpu_down_are_zero(tiny_model, tiny_tokenizer, tmp_path):
    torch.set_flush_denormal(False)
    trainer = make_trainer(SharedPrefixSFTTrainer, tiny_model, tiny_tokenizer, tmp_path)
    gradients = []

    def sure_model(**inputs):
        output = trainer.model(**inputs)
        torch.manual_seed(1)
        output.logits = output.logits + 30 * torch.randn_like(output.logits)
        output.logits.register_hook(gradients.append)
        return output

    batch = {"input_ids": torch.tensor([[2, 5, 6, 1]]), "labels": torch.tensor([[-100, -100, 6, 1]])}
    trainer._token_losses(sure_model, batch)[0].sum().backward()
    sizes = gradients[0].abs().double()
    assert sizes.max() > 0.1 and 0 < sizes[sizes > 0].min() < 1e-30 and sizes[sizes > 0].min() > 1.17e-38


@torch.no_grad()
def test_the_answer_loss_is_that_of_whole_answers_however_many_tokens_they_have(tiny_model, tiny_tokenizer, tmp_path):
    """The mean of their tokens used to be compared with guessing a label."""
    rows = tokenize(load_samples([sample("雨だ", "sadness"), sample("虹", "😀")]), tiny_tokenizer, 512, "validation")
    trainer, losses = make_trainer(SharedPrefixSFTTrainer, tiny_model, tiny_tokenizer, tmp_path), []
    for row in rows:
        labels = torch.tensor(row["labels"][1:])
        labels[labels == end_of_turn_id(tiny_tokenizer)] = IGNORE_INDEX
        logits = trainer.model(torch.tensor([row["input_ids"]])).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item())
    logs = {"loss": 1.0}
    trainer.compute_loss(trainer.model, trainer.data_collator(list(rows)))
    trainer.log(logs)
    found = logs["answer_loss"], trainer.evaluate(rows)["eval_answer_loss"]
    assert found == pytest.approx([sum(losses) / 2] * 2, rel=1e-4) and losses[0] > 2 * losses[1]


def test_the_point_before_training_takes_a_hundred_samples_at_most(tiny_model, tiny_tokenizer, tmp_path, monkeypatch):
    trainer = make_trainer(SharedPrefixSFTTrainer, tiny_model, tiny_tokenizer, tmp_path)
    trainer.eval_dataset = trainer.eval_dataset.select([0] * 250)
    monkeypatch.setattr(SFTTrainer, "evaluate", lambda self, dataset: len(dataset or self.eval_dataset))
    assert trainer.evaluate() == 100
    trainer.state.global_step = 5
    assert trainer.evaluate() == 250


@pytest.mark.parametrize(("logs", "stops"), [({"loss": 3.0}, 0), ({"loss": math.nan}, 1), ({"eval_loss": 80.0}, 1)])
def test_divergence_is_a_nan_or_an_explosion(logs, stops):
    callback, control = StopEarly(), SimpleNamespace(should_training_stop=False)
    callback.on_log(None, None, control, logs=logs)
    assert control.should_training_stop == stops
    assert (callback.ended, callback.exit_status) == ("diverged" if stops else "finished", 0)


def test_the_first_interrupt_says_what_happens_and_the_second_ends_the_run(capsys):
    """The first one used to be silent, and the second did nothing."""
    callback, control = StopEarly(), SimpleNamespace()
    before = signal.getsignal(signal.SIGINT)
    with callback.on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        for epoch, saves in ((1.0, False), (1.5, True)):  # at its end an epoch is measured before it is saved
            callback.on_step_end(SimpleNamespace(world_size=1), SimpleNamespace(epoch=epoch), control)
            assert control.should_save == saves and control.should_training_stop
        assert (callback.ended, callback.exit_status) == ("interrupted", 130)
        assert "press Ctrl+C again" in capsys.readouterr().out
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before
    for step, ended in ((9, "interrupted"), (10, "finished")):  # a run whose last step was done is complete
        callback.on_train_end(None, SimpleNamespace(global_step=step, max_steps=10), control)
        assert callback.ended == ended
