"""Token sequences as one row in which every common beginning stands once."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PrefixTree:
    """Sequences merged wherever they begin alike: the system prompt of a whole batch is computed once.

    A node is a token after a certain beginning. It sees the nodes of its own beginning only, at the positions that they
    had, so its hidden state is what it would be in a row of its own; and there is no padding.
    """

    tokens: list[int]
    positions: list[int]
    parents: list[int]  # the node before each node, -1 for a first token; always a smaller number
    paths: list[list[int]]  # for each sequence, the node of each of its tokens

    @property
    def saved(self) -> float:
        """The share of the sequences' tokens that need no computation."""
        return 1 - len(self.tokens) / max(1, sum(map(len, self.paths)))

    def mask(self, dtype: torch.dtype) -> torch.Tensor:
        """(nodes, nodes), additive in `dtype`: 0 where a node may look, the lowest number elsewhere."""
        sees = torch.eye(len(self.tokens), dtype=torch.bool)
        rows = sees.numpy()
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                rows[node] |= rows[parent]
        return torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)

    def model_inputs(self, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """What a transformers model takes: `input_ids` and `position_ids` (1, nodes), `attention_mask` (1, 1, nodes,
        nodes)."""
        return {
            "input_ids": torch.tensor([self.tokens], device=device),
            "position_ids": torch.tensor([self.positions], device=device),
            "attention_mask": self.mask(dtype)[None, None].to(device),
        }


def prefix_tree(sequences: Sequence[Sequence[int]]) -> PrefixTree:
    """Merge token sequences by their common beginnings."""
    tree = PrefixTree([], [], [], [])
    child: dict[tuple[int, int], int] = {}
    for sequence in sequences:
        node, path = -1, []
        for position, token in enumerate(sequence):
            step = (node, token)
            if step not in child:
                child[step] = len(tree.tokens)
                tree.tokens.append(token)
                tree.positions.append(position)
                tree.parents.append(node)
            node = child[step]
            path.append(node)
        tree.paths.append(path)
    return tree


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@contextlib.contextmanager
def logits_only_at(model: torch.nn.Module, row: torch.Tensor, column: torch.Tensor) -> Iterator[None]:
    """Within the block, `model(...)` gives logits at those places only: (places, words), not (rows, length, words).

    `row` and `column` are (places,). It works for every model of transformers, wrapped or not: the hidden states are
    picked on their way into the output layer, and what the model does with logits (Gemma 2 caps them) comes after it.
    """
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0][row, column],))
    try:
        yield
    finally:
        hook.remove()
