"""Many prompts at once: what all begin with, and after it small prefix trees that see it and themselves only."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from emojitune.prefix_tree import PrefixTree, prefix_tree, shared_length

# A tree is full with so many tokens, counted before they are merged; about half of them are then left. Smaller trees
# make more calls of the attention, larger ones compare more tokens that do not see each other.
TREE_TOKENS = 120

_NAME = "branches"


@dataclass(frozen=True)
class Branches:
    """One row of tokens: the trunk, which all sequences begin with, then the trees, one after the other.

    One tree of them all would give the same states, but its attention grows with the square of its tokens, most of
    which do not see each other.
    """

    trunk: PrefixTree  # of a single sequence
    trees: list[PrefixTree]

    def model_inputs(self, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """What a model takes within `branch_attention`: `input_ids` and `position_ids` (1, tokens), and `branches`: the
        trunk's length, then of the trunk and each tree the number of its tokens and its mask (1, 1, its tokens, the
        tokens it may look at), additive in `dtype`."""
        size = len(self.trunk.tokens)
        tokens, positions = list(self.trunk.tokens), list(self.trunk.positions)
        parts = [(size, self.trunk.mask(dtype)[None, None].to(device))] if size else []
        for tree in self.trees:
            tokens += tree.tokens
            positions += [size + position for position in tree.positions]
            mask = functional.pad(tree.mask(dtype), (size, 0))  # all of the trunk is seen
            parts.append((len(tree.tokens), mask[None, None].to(device)))
        return {
            "input_ids": torch.tensor([tokens], device=device),
            "position_ids": torch.tensor([positions], device=device),
            "branches": (size, parts),
        }

    def last_places(self) -> list[int]:
        """Where each sequence's last token is in the row."""
        places, start = [], len(self.trunk.tokens)
        for tree in self.trees:
            places += [start + path[-1] for path in tree.paths]
            start += len(tree.tokens)
        return places


def branches(sequences: Sequence[Sequence[int]], full: int = TREE_TOKENS) -> Branches:
    """Merge token sequences that are in lexical order and not empty. A tree ends where nothing but the trunk is shared:
    nothing is computed twice."""
    length = min(shared_length(sequences[0], sequences[-1]), min(map(len, sequences)) - 1)  # each has a token after it
    trees: list[list[Sequence[int]]] = []
    for _, alike in groupby((sequence[length:] for sequence in sequences), key=lambda rest: rest[0]):
        if not trees or sum(map(len, trees[-1])) >= full:
            trees.append([])
        trees[-1] += alike
    return Branches(prefix_tree([sequences[0][:length]]), [prefix_tree(tree) for tree in trees])


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    branches: tuple[int, list[tuple[int, torch.Tensor]]],
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of the trunk to itself, and of each tree to the trunk and itself; the tensors are (1, heads, tokens,
    size), the result (1, tokens, heads, size)."""
    size, parts = branches
    found, start = [], 0
    for length, mask in parts:
        end = start + length
        seen = [tensor[:, :, start:end] for tensor in (key, value)]
        if start:
            seen = [torch.cat([tensor[:, :, :size], own], 2) for tensor, own in zip((key, value), seen, strict=True)]
        found.append(sdpa_attention_forward(module, query[:, :, start:end], *seen, mask, **settings)[0])
        start = end
    return torch.cat(found, 1), None


AttentionInterface.register(_NAME, _attend)


@contextlib.contextmanager
def branch_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the model takes `Branches`."""
    before = model.config._attn_implementation
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def takes_branches(model: PreTrainedModel, longest: int) -> bool:
    """Whether the model's attention can be done by parts: it is torch's own, and no layer sees less far than `longest`
    tokens, since one mask serves them all."""
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    return model.config._attn_implementation == "sdpa" and (not window or longest <= window)
