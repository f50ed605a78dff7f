"""Weights that do not learn, held in half the memory: as the bfloat16 that they came in.

No weight is rounded: only those that bfloat16 holds exactly are changed. By default each is widened again, a piece at a
time, when it is multiplied, and results are those of float32. A CPU that multiplies bfloat16 by itself can do so
instead: `products=torch.bfloat16` rounds what goes into such a product and what comes out of it. Only the output
layer's forward pass is always widened: its logits would be rounded to an eighth, and the likeliest of them decides.
"""

import copy
import functools
from typing import Any

import torch
from torch import nn
from torch.nn import functional

# Rows that are widened at a time: 5 MB of Gemma's output layer, where all of it would be 671 MB.
_ROWS = 2048
_LARGE = 16384  # rows from which a weight is an output layer's, widened in pieces


def hold_in_bf16(model: nn.Module, products: torch.dtype = torch.float32) -> int:
    """Hold the weights of linear and embedding layers in bf16 where they are frozen and bf16 holds them exactly.

    All other weights become float32. `products` is what inputs and gradients are multiplied with the held weights in.
    Returns the bytes that this saves. `widen` takes it back.
    """
    saved: dict[nn.Parameter, int] = {}  # input and output embeddings may be one
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            holds = isinstance(module, nn.Linear | nn.Embedding) and name == "weight" and not weight.requires_grad
            if holds and _exact_in_bf16(weight):
                weight.data = weight.data.bfloat16().clone()  # out of the mapped file, so that each can go by itself
                saved[weight] = 2 * weight.numel()
                if isinstance(module, nn.Linear):
                    module.forward = functools.partial(_linear, module, products)
                else:
                    module.forward = functools.partial(_embedding, module)
            else:
                weight.data = weight.data.float()
    return sum(saved.values())


def widen(model: nn.Module) -> None:
    """Hold in float32 again what `hold_in_bf16` changed, with the layers' own way to compute."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding) and vars(module).pop("forward", None):
            module.weight.data = module.weight.data.float()


def _exact_in_bf16(weight: torch.Tensor) -> bool:
    """Whether nothing is lost in bf16; asked a piece at a time, for the memory's sake."""
    return weight.dtype == torch.bfloat16 or all(
        torch.equal(rows.float(), rows.bfloat16().float()) for rows in weight.detach().split(_ROWS)
    )


def _linear(module: nn.Linear, products: torch.dtype, inputs: torch.Tensor) -> torch.Tensor:
    output = _Multiply.apply(inputs, module.weight, products)
    return output if module.bias is None else output + module.bias


def _embedding(module: nn.Embedding, tokens: torch.Tensor) -> torch.Tensor:
    """The layer's own forward, which may scale, with a table that holds the rows of these tokens only."""
    words, place = tokens.unique(return_inverse=True)
    small = copy.copy(module)
    small._parameters = {"weight": module.weight[words].float()}
    small.padding_idx = None  # it matters to the gradient only, and there is none
    return type(module).forward(small, place)


class _Multiply(torch.autograd.Function):
    """`inputs` (..., in) by a bf16 weight (out, in). Autograd by itself would keep the widened copy."""

    @staticmethod
    def forward(context: Any, inputs: torch.Tensor, weight: torch.Tensor, products: torch.dtype) -> torch.Tensor:
        context.save_for_backward(weight)
        context.products = products
        if len(weight) <= _LARGE:
            return functional.linear(inputs.to(products), weight.to(products)).to(inputs.dtype)
        columns = inputs.reshape(-1, inputs.shape[-1]).t()
        output = columns.new_empty(len(weight), columns.shape[1])
        for rows, piece in zip(output.split(_ROWS), weight.split(_ROWS), strict=True):
            torch.mm(piece.to(inputs.dtype), columns, out=rows)
        return output.t().reshape(*inputs.shape[:-1], len(weight))

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (weight,) = context.saved_tensors
        if len(weight) <= _LARGE or context.products == weight.dtype:
            return (gradient.to(context.products) @ weight.to(context.products)).to(gradient.dtype), None, None
        rows = gradient.reshape(-1, gradient.shape[-1])
        result = rows.new_zeros(len(rows), weight.shape[1])
        for part, piece in zip(rows.split(_ROWS, dim=1), weight.split(_ROWS), strict=True):
            result.addmm_(part, piece.to(gradient.dtype))
        return result.reshape(*gradient.shape[:-1], weight.shape[1]), None, None
