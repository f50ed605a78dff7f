"""Frozen weights held in bf16 give what float32 gives, in half the memory."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from emojitune.frozen import hold_in_bf16, widen


@pytest.fixture
def model(tiny_model):
    """The tiny Gemma, its weights such as bf16 can hold, its first layer free to learn."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).float()
    model.requires_grad_(False)
    model.model.layers[0].requires_grad_(True)
    return model


def loss_and_gradients(model):
    model.zero_grad()
    tokens = torch.arange(24).reshape(2, 12) + 5
    output = model(input_ids=tokens, labels=tokens, use_cache=False)
    output.loss.backward()
    learns = [weight.grad.clone() for weight in model.parameters() if weight.requires_grad]
    return output.logits.detach(), output.loss.detach(), learns


@pytest.mark.parametrize("large", [16384, 8])
def test_same_results_in_half_the_memory(model, monkeypatch, large):
    monkeypatch.setattr("emojitune.frozen._LARGE", large)
    monkeypatch.setattr("emojitune.frozen._ROWS", 100)
    logits, loss, gradients = loss_and_gradients(model)
    frozen = [weight for name, weight in model.named_parameters() if "norm" not in name and not weight.requires_grad]
    assert hold_in_bf16(model) == sum(2 * weight.numel() for weight in frozen)
    assert {weight.dtype for weight in frozen} == {torch.bfloat16}
    held_logits, held_loss, held_gradients = loss_and_gradients(model)
    assert held_logits.dtype == torch.float32
    torch.testing.assert_close(held_logits, logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(held_loss, loss, rtol=1e-6, atol=0)
    for held, plain in zip(held_gradients, gradients, strict=True):
        assert held.dtype == torch.float32
        torch.testing.assert_close(held, plain, rtol=1e-4, atol=1e-6)
    widen(model)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert loss_and_gradients(model)[0].equal(logits)


def test_what_bf16_cannot_hold_or_what_learns_stays_in_fp32(model):
    inexact = model.model.layers[1].mlp.up_proj.weight
    inexact.data[3, 3] = 1 / 3
    hold_in_bf16(model)
    assert inexact.dtype == torch.float32
    assert model.model.layers[1].mlp.down_proj.weight.dtype == torch.bfloat16
    assert {weight.dtype for weight in model.model.layers[0].parameters()} == {torch.float32}


def test_bf16_products_are_rounded_and_no_more(model):
    logits, loss, gradients = loss_and_gradients(model)
    hold_in_bf16(model, torch.bfloat16)
    held_logits, held_loss, held_gradients = loss_and_gradients(model)
    assert held_logits.dtype == torch.float32 and not held_logits.equal(logits)
    torch.testing.assert_close(held_loss, loss, rtol=1e-2, atol=0)
    for held, plain in zip(held_gradients, gradients, strict=True):
        assert held.dtype == torch.float32
        assert (held - plain).norm() < 0.03 * plain.norm()
    widen(model)
    assert loss_and_gradients(model)[0].equal(logits)


def test_the_output_layer_gives_exact_logits_with_bf16_products(model, monkeypatch):
    monkeypatch.setattr("emojitune.frozen._LARGE", 8)
    exact = copy.deepcopy(model.get_output_embeddings())
    hold_in_bf16(model, torch.bfloat16)
    states = torch.randn(3, exact.in_features)
    torch.testing.assert_close(model.get_output_embeddings()(states), exact(states), rtol=1e-5, atol=1e-6)
