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
    paths: list[list[int]]  # for each sequence, the node of each of its tokens


def prefix_tree(sequences: Sequence[Sequence[int]], merge: bool = True) -> PrefixTree:
    """Merge token sequences by their common prefixes; `merge=False` puts them one after the other."""
    tree = PrefixTree([], [], [])
    children: dict[tuple[int, int], int] = {}
    for number, sequence in enumerate(sequences, 1):
        node = -1 if merge else -number  # one root for all, or a root for each
        path = []
        for position, token in enumerate(sequence):
            if (node, token) not in children:
                children[node, token] = len(tree.token_ids)
                tree.token_ids.append(token)
                tree.positions.append(position)
            node = children[node, token]
            path.append(node)
        tree.paths.append(path)
    return tree


def supports_prefix_tree(model: torch.nn.Module) -> bool:
    """Whether the model's attention takes a mask of our own."""
    config = model.config.get_text_config()
    return config.model_type in _TREE_MODELS and config._attn_implementation == "sdpa"


@torch.no_grad()
def samples_stay_apart(model: torch.nn.Module) -> bool:
    """Whether the model gives a sample the same logits behind another one in a row as alone, but for rounding."""
    one, other = [5, 6, 7, 8], [9, 10, 11]
    trees = [prefix_tree(sequences, supports_prefix_tree(model)) for sequences in ([one, other], [other])]
    both, alone = (model(**model_inputs(model, t), use_cache=False).logits[0, -len(other) :].float() for t in trees)
    return bool((both - alone).abs().max() <= 1e-3 * alone.std())


def model_inputs(model: torch.nn.Module, tree: PrefixTree) -> dict[str, Any]:
    """What the model takes for a tree: `input_ids` and `position_ids`, each (1, nodes), and `attention_mask`.

    Without the mask, transformers tells sequences that are not merged apart by their positions.
    """
    positions = torch.tensor(tree.positions, device=model.device)
    inputs = {"input_ids": torch.tensor([tree.token_ids], device=model.device), "position_ids": positions[None]}
    if supports_prefix_tree(model):
        allowed = torch.zeros(len(positions), len(positions), dtype=torch.bool)  # the path so far, for each node
        for path in map(torch.tensor, tree.paths):
            allowed[path[:, None], path] = torch.ones(len(path), len(path), dtype=torch.bool).tril()
        distance = positions[:, None].short() - positions.short()  # a matrix of all pairs; a position is below 32,768
        inputs["attention_mask"] = attention_mask(model, allowed[None].to(model.device), distance[None])
    return inputs


def attention_mask(
    model: torch.nn.Module, allowed: torch.Tensor, distance: torch.Tensor
) -> torch.Tensor | dict[str, torch.Tensor]:
    """The mask that the model takes, (rows, 1, tokens, keys), from which keys each token may attend to and how many
    positions each is back, both (rows, tokens, keys).

    For Gemma one mask for each kind of layer: its sliding layers see 512 positions back.
    """
    config = model.config.get_text_config()
    full = allowed[:, None]
    if config.model_type != "gemma3_text":
        return full
    return {"full_attention": full, "sliding_attention": full & (distance < config.sliding_window)[:, None]}


def common_prefix_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
