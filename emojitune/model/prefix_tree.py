"""Token sequences as one row in which every common prefix stands once.

The system prompt of a whole batch, and the earlier turns of a conversation, go through the model once, and there is no
padding. The same idea in training: Tree Training (arXiv 2511.00413) and Prompt Trees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

# Models whose attention takes our mask as it is. Others get flattened rows, which transformers masks by position ids.
_TREE_MODELS = ("gemma3_text", "llama")


@dataclass(frozen=True)
class PrefixTree:
    """Sequences merged wherever they begin alike.

    A node is a token after a certain prefix. It attends to the nodes of its own prefix only, at the positions that
    they had, so its hidden state is what it would be in a row of its own.
    """

    token_ids: list[int]
    positions: list[int]
    parents: list[int]  # the node before each node, -1 for a first token; always a smaller number
    paths: list[list[int]]  # for each sequence, the node of each of its tokens

    def ancestors(self) -> torch.Tensor:
        """(nodes, nodes), bool: whether the row's node attends to the column's."""
        mask = torch.eye(len(self.token_ids), dtype=torch.bool)
        rows = mask.numpy()
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                rows[node] |= rows[parent]
        return mask


def prefix_tree(sequences: Sequence[Sequence[int]], merge: bool = True) -> PrefixTree:
    """Merge token sequences by their common prefixes; `merge=False` puts them one after the other."""
    tree = PrefixTree([], [], [], [])
    children: dict[tuple[int, int], int] = {}
    for sequence in sequences:
        node, path = -1, []
        for position, token in enumerate(sequence):
            child = children.get((node, token)) if merge else None
            if child is None:
                child = children[node, token] = len(tree.token_ids)
                tree.token_ids.append(token)
                tree.positions.append(position)
                tree.parents.append(node)
            node = child
            path.append(node)
        tree.paths.append(path)
    return tree


def supports_prefix_tree(model: torch.nn.Module) -> bool:
    """Whether the model's attention takes a mask of our own."""
    config = model.config.get_text_config()
    return config.model_type in _TREE_MODELS and config._attn_implementation == "sdpa"


def model_inputs(model: torch.nn.Module, tree: PrefixTree) -> dict[str, Any]:
    """What the model takes for a tree: `input_ids` and `position_ids` (1, nodes), and `attention_mask` (1, 1, nodes,
    nodes), for Gemma one for each kind of layer, since its sliding layers see 512 positions back."""
    inputs: dict[str, Any] = {
        "input_ids": torch.tensor([tree.token_ids], device=model.device),
        "position_ids": torch.tensor([tree.positions], device=model.device),
    }
    if not supports_prefix_tree(model):
        return inputs  # the sequences are not merged: transformers tells them apart by their positions
    config = model.config.get_text_config()
    full = tree.ancestors()
    mask = full[None, None].to(model.device)
    if "sliding_attention" not in (getattr(config, "layer_types", None) or ()):
        return inputs | {"attention_mask": mask}
    positions = torch.tensor(tree.positions)
    near = positions[:, None] - positions[None, :] < config.sliding_window
    sliding = (full & near)[None, None].to(model.device)
    return inputs | {"attention_mask": {"full_attention": mask, "sliding_attention": sliding}}


def common_prefix_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
