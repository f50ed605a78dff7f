"""Replies restricted to the labels: constrained decoding over the trie of their token ids."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from emojitune.inference.cached_batch import CachedBatch
from emojitune.model.loading import stop_token_ids


def label_token_ids(tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> list[list[int]]:
    """The token ids of each label, with the end of the turn where another label goes on from them."""
    sequences = [tokenizer.encode(label, add_special_tokens=False) for label in labels]
    end = stop_token_ids(tokenizer)[-1]
    return [
        [*own, end] if any(other is not own and other[: len(own)] == own for other in sequences) else own
        for own in sequences
    ]


def label_probabilities(
    batch: CachedBatch, prompts: Sequence[Sequence[int]], sequences: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The probability of each label when every token must lead to one, (prompts, labels), float64 on the CPU.

    Also the logits at the end of each prompt, (prompts, vocabulary): the same pass begins the free reply, and only
    branching nodes deeper in the trie take another. `batch` has a row for each prompt; `sequences` are token ids.
    """
    after_prompt = batch.extend_to(prompts)
    log_probabilities = torch.zeros(len(prompts), len(sequences), dtype=torch.float64)
    for node in sorted({tuple(sequence[:depth]) for sequence in sequences for depth in range(len(sequence))}):
        depth = len(node)
        following = {n: s[depth] for n, s in enumerate(sequences) if len(s) > depth and tuple(s[:depth]) == node}
        allowed = sorted(set(following.values()))
        if len(allowed) == 1:  # renormalised, it has probability 1
            continue
        logits = batch.extend_to([[*prompt, *node] for prompt in prompts]) if node else after_prompt
        scores = logits[:, allowed].cpu().double().log_softmax(dim=-1)
        for label, token in following.items():
            log_probabilities[:, label] += scores[:, allowed.index(token)]
    return log_probabilities.exp(), after_prompt
