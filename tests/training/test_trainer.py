"""The trainer against stock TRL, and exactly which tokens are supervised."""

import json
import math

import pytest
import torch
from conftest import SMALL_DATA, run_script
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

from emojitune import training
from emojitune.model import load_model, load_tokenizer, stop_tokens
from emojitune.training import (
    IGNORED,
    LabelLogitsTrainer,
    StopOnDivergence,
    as_rows,
    as_tree,
    check_supervision,
    later_turns_alone,
    marked,
    without_some_systems,
)


def make_trainer(kind, folder, tokenizer, tmp_path, lora=True, **settings):
    model = load_model(folder, torch.device("cpu"), torch.float32)
    config = SFTConfig(
        output_dir=str(tmp_path / "trainer"),
        assistant_only_loss=True,
        per_device_train_batch_size=6,
        per_device_eval_batch_size=5,
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        **settings,
    )
    rows = Dataset.from_list(SMALL_DATA)
    extra = {"end_tokens": stop_tokens(tokenizer)} if kind is LabelLogitsTrainer else {}
    torch.manual_seed(1)
    peft_config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False) if lora else None
    trainer = kind(
        model=model,
        args=config,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        peft_config=peft_config,
        **extra,
    )
    return trainer


def first_batch(trainer):
    return next(iter(trainer.get_train_dataloader()))


@pytest.fixture(scope="module")
def llama(tmp_path_factory, tiny_tokenizer):
    """A model of another family, with the same tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("family", ["gemma", "llama"])
def test_loss_and_gradients_equal_stock_trl(family, lora, tiny_model, llama, tiny_tokenizer, tmp_path):
    folder = tiny_model if family == "gemma" else llama
    found = {}
    for kind in (SFTTrainer, LabelLogitsTrainer):
        trainer = make_trainer(kind, folder, tiny_tokenizer, tmp_path, lora)
        trainer.model.train()
        batch = first_batch(trainer)
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=(batch["labels"] != IGNORED).sum())
        loss.backward()
        gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
        found[kind] = (loss.item(), gradients)
        if kind is LabelLogitsTrainer:
            assert trainer._tree_agrees  # the fast way was taken
    (stock_loss, stock), (our_loss, ours) = found[SFTTrainer], found[LabelLogitsTrainer]
    assert our_loss == pytest.approx(stock_loss, rel=1e-4)
    assert ours.keys() == stock.keys()
    for name, gradient in stock.items():
        assert torch.norm(ours[name] - gradient) <= 1e-4 * torch.norm(gradient) + 1e-9, name


def test_a_batch_in_parts_gives_the_gradients_of_the_whole(tiny_model, tiny_tokenizer, tmp_path, monkeypatch):
    found = []
    for tokens in (10**6, 700, 1):
        monkeypatch.setattr(training, "PART_TOKENS", tokens)
        trainer = make_trainer(LabelLogitsTrainer, tiny_model, tiny_tokenizer, tmp_path)
        trainer.current_gradient_accumulation_steps = 1
        batch = first_batch(trainer)
        parts = list(training._parts(batch, tokens))
        assert sum(len(part["labels"]) for part in parts) == len(batch["labels"])
        loss = trainer.training_step(trainer.model, batch, (batch["labels"] != IGNORED).sum())
        gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        _, sums, _ = trainer.prediction_step(trainer.model, batch, False)
        found.append((len(parts), loss.item(), gradients, sums))
    assert [parts for parts, *_ in found] == [1, found[1][0], 6] and 1 < found[1][0] < 6
    for _, loss, gradients, sums in found[1:]:
        torch.testing.assert_close(sums, found[0][3], rtol=1e-4, atol=1e-5)
        assert loss == pytest.approx(found[0][1], rel=1e-5)
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(gradients, found[0][2], strict=True))


def test_training_ends_at_the_same_weights_as_stock_trl(tiny_model, tiny_tokenizer, tmp_path):
    weights = {}
    for kind in (SFTTrainer, LabelLogitsTrainer):
        trainer = make_trainer(
            kind,
            tiny_model,
            tiny_tokenizer,
            tmp_path,
            num_train_epochs=2,
            gradient_accumulation_steps=2,
            learning_rate=1e-3,
        )
        trainer.train()
        weights[kind] = {name: p.detach() for name, p in trainer.model.named_parameters() if p.requires_grad}
    for name, stock in weights[SFTTrainer].items():
        assert torch.allclose(weights[LabelLogitsTrainer][name], stock, rtol=1e-3, atol=1e-5), name


def test_evaluation_agrees_with_a_slow_obvious_one(tiny_model, tiny_tokenizer, tmp_path):
    trainer = make_trainer(LabelLogitsTrainer, tiny_model, tiny_tokenizer, tmp_path)
    metrics = trainer.evaluate()
    model = trainer.model.eval()
    end = tiny_tokenizer.convert_tokens_to_ids("<end_of_turn>")
    total = label_total = tokens = label_tokens = right = turns = 0
    for row in trainer.eval_dataset:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        turn_right = True
        for place, label in enumerate(row["labels"]):
            if label == IGNORED:
                continue
            loss = -logits[place - 1, label].item()
            total, tokens = total + loss, tokens + 1
            if label != end:
                label_total, label_tokens = label_total + loss, label_tokens + 1
            turn_right &= logits[place - 1].argmax().item() == label
            if label == end:
                right, turns, turn_right = right + turn_right, turns + 1, True
    assert turns == sum(len(row["messages"]) // 2 for row in SMALL_DATA)
    assert metrics["eval_loss"] == pytest.approx(total / tokens, rel=1e-4)
    assert metrics["eval_label_loss"] == pytest.approx(label_total / label_tokens, rel=1e-4)
    assert metrics["eval_exact_accuracy"] == pytest.approx(right / turns)


def test_tree_falls_back_to_rows_for_a_model_that_ignores_the_mask(tiny_model, tiny_tokenizer, tmp_path, monkeypatch):
    trainer = make_trainer(LabelLogitsTrainer, tiny_model, tiny_tokenizer, tmp_path)
    inner = type(trainer.model.get_base_model())
    forward = inner.forward
    monkeypatch.setattr(
        trainer.model.get_base_model(),
        "forward",
        lambda *args, attention_mask=None, **kwargs: forward(trainer.model.get_base_model(), *args, **kwargs),
    )
    batch = first_batch(trainer)
    trainer.compute_loss(trainer.model, dict(batch))
    assert trainer._tree_agrees is False


def test_conversations_longer_than_the_sliding_window_go_in_rows(tiny_model, tiny_tokenizer, tmp_path):
    trainer = make_trainer(LabelLogitsTrainer, tiny_model, tiny_tokenizer, tmp_path)
    trainer.model.config.sliding_window = 8
    assert trainer._arranged(first_batch(trainer)).inputs["input_ids"].shape[0] == 6


def test_tree_holds_each_common_beginning_once():
    batch = {
        "input_ids": torch.tensor([[2, 5, 6, 7, 1], [2, 5, 8, 1, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]),
        "labels": torch.tensor([[-100, -100, -100, 7, 1], [-100, -100, -100, 1, -100]]),
    }
    tree = as_tree(batch, torch.float32)
    assert tree.inputs["input_ids"].tolist() == [[2, 5, 6, 7, 1, 8, 1]]
    assert tree.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 2, 3]]
    sees = (tree.inputs["attention_mask"][0, 0] == 0).int().tolist()
    assert sees[4] == [1, 1, 1, 1, 1, 0, 0]
    assert sees[6] == [1, 1, 0, 0, 0, 1, 1]
    assert (tree.column.tolist(), tree.target.tolist(), tree.owner.tolist()) == ([2, 3, 5], [7, 1, 1], [0, 0, 1])
    rows = as_rows(batch)
    assert (rows.row.tolist(), rows.column.tolist(), rows.target.tolist()) == ([0, 0, 1], [2, 3, 2], [7, 1, 1])


def test_exactly_the_emojis_and_the_ends_of_their_turns_are_supervised(tiny_model, tiny_tokenizer, tmp_path):
    trainer = make_trainer(LabelLogitsTrainer, tiny_model, tiny_tokenizer, tmp_path)
    for row, source in zip(trainer.train_dataset, SMALL_DATA, strict=True):
        supervised = tiny_tokenizer.decode([label for label in row["labels"] if label != IGNORED])
        labels = [message["content"] for message in source["messages"] if message["role"] == "assistant"]
        assert supervised == "".join(f"{label}<end_of_turn>" for label in labels)
        assert row["input_ids"].count(tiny_tokenizer.bos_token_id) == 1
    check_supervision(trainer.train_dataset, tiny_tokenizer, stop_tokens(tiny_tokenizer), 512)
    assert "【😭<end_of_turn>】" in marked(trainer.train_dataset[5], tiny_tokenizer)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda row: {**row, "labels": [IGNORED] * len(row["labels"])}, "no token that carries loss"),
        (lambda row: {**row, "labels": [IGNORED if x == 4 else x for x in row["labels"]]}, "does not learn to stop"),
        (lambda row: {**row, "input_ids": [2, *row["input_ids"]]}, "two <bos>"),
    ],
)
def test_bad_supervision_is_refused(damage, word, tiny_model, tiny_tokenizer, tmp_path):
    from emojitune.artifacts import UserError

    trainer = make_trainer(LabelLogitsTrainer, tiny_model, tiny_tokenizer, tmp_path)
    with pytest.raises(UserError, match=word):
        check_supervision([damage(trainer.train_dataset[0])], tiny_tokenizer, stop_tokens(tiny_tokenizer), 512)


def test_system_dropout_takes_the_asked_share_and_nothing_else():
    changed = without_some_systems(SMALL_DATA, 0.5, seed=1)
    assert sum(messages[0]["role"] != "system" for messages in changed) == round(0.5 * len(SMALL_DATA))
    assert [messages[-1] for messages in changed] == [row["messages"][-1] for row in SMALL_DATA]
    assert without_some_systems(SMALL_DATA, 0.5, seed=1) == changed
    assert without_some_systems(SMALL_DATA, 0.5, seed=2) != changed


def test_later_turns_come_by_themselves_with_their_system_prompt():
    def turns(*texts):
        reply = {"role": "assistant", "content": "😀"}
        return [message for text in texts for message in ({"role": "user", "content": text}, reply)]

    prompt = {"role": "system", "content": "分類して"}
    rows = [
        {"messages": [prompt, *turns("一", "二", "三")]},
        {"messages": turns("四")},
        {"messages": turns("五", "六")},
    ]
    alone = [{"messages": [prompt, *turns("二")]}, {"messages": [prompt, *turns("三")]}, {"messages": turns("六")}]
    assert later_turns_alone(rows) == alone


def test_merged_and_adapter_models_give_the_same_logits(trained, tiny_model):
    from peft import PeftModel

    from emojitune.artifacts import OutputDirectory

    output = OutputDirectory(trained)
    merged = AutoModelForCausalLM.from_pretrained(output.model).eval()
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    adapter = PeftModel.from_pretrained(base, output.adapter).eval()
    ids = torch.tensor([[2, 3, 70, 71, 72, 73, 4]])
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, adapter(ids).logits, atol=1e-5)
    assert not (trained / "03_training/checkpoints").exists()


def test_best_epoch_is_the_one_kept(prepared, tiny_model):
    """With a learning rate that ruins the second epoch, the first one's weights must be in 03_model."""
    from emojitune.artifacts import OutputDirectory, read_jsonl
    from emojitune.evaluation import items_of, predict  # noqa: F401 - the end-to-end test compares predictions

    assert run_script("03_train_model.py", "--output-dir", prepared, "--model", tiny_model, "--epochs", 4,
                      "--learning-rate", 0.05, "--system-dropout", 0) == 0  # fmt: skip
    output = OutputDirectory(prepared)
    run = json.loads(output.run.read_text())
    epochs = [row for row in read_jsonl(output.loss_history, "", output) if row.get("validation_loss") and row["epoch"]]
    best = min(epochs, key=lambda row: row["validation_label_loss"])
    assert run["best_epoch"] == best["epoch"]
    model = load_model(output.model, torch.device("cpu"), torch.float32)
    tokenizer = load_tokenizer(output.model)
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    total = count = 0
    for row in read_jsonl(output.validation, "", output):
        encoded = tokenizer.apply_chat_template(row["messages"], return_assistant_tokens_mask=True, return_dict=True)
        ids, mask = torch.tensor([encoded["input_ids"]]), encoded["assistant_masks"]
        with torch.no_grad():
            logits = model(ids).logits[0].log_softmax(-1)
        for place, inside in enumerate(mask):
            if inside and encoded["input_ids"][place] != end:
                total -= logits[place - 1, ids[0, place]].item()
                count += 1
    assert total / count == pytest.approx(best["validation_label_loss"], rel=1e-4)


def test_divergence_is_a_nan_or_an_explosion():
    class Control:
        should_training_stop = False

    for logs, stops in (({"loss": 3.0}, False), ({"loss": math.nan}, True), ({"eval_loss": 80.0}, True)):
        callback, control = StopOnDivergence(), Control()
        callback.on_log(None, None, control, logs=logs)
        assert (callback.diverged, control.should_training_stop) == (stops, stops)
