"""Probabilities of labels, against each label in a row of its own."""

import pytest
import torch
from inference.tiny_models import FAMILIES, TEXTS, slow_logits, tiny

from emojitune.data.emojis import LABELS
from emojitune.inference.cached_batch import CachedBatch
from emojitune.inference.label_scoring import label_probabilities, label_token_ids
from emojitune.inference.prompts import build_messages, encode_prompt

WORDS = ["joy", "joyful", "anger", "annoyed", "sad", "☹️", "☹"]  # bytes: tries of many branches


def one_by_one(model, prompt, sequences):
    """Down the trie, the whole sequence anew at each step; what some label goes on with there shares probability 1."""
    probabilities = []
    for sequence in sequences:
        probability = 1.0
        for depth, token in enumerate(sequence):
            others = [other for other in sequences if other[:depth] == sequence[:depth] and len(other) > depth]
            allowed = sorted({other[depth] for other in others})
            logits = slow_logits(model, prompt + sequence[:depth])
            probability *= float(logits[allowed].softmax(0)[allowed.index(token)])
        probabilities.append(probability)
    return torch.tensor(probabilities, dtype=torch.float64)


@pytest.mark.parametrize("labels", [list(LABELS), WORDS], ids=["emojis", "words"])
@pytest.mark.parametrize("family", FAMILIES)
def test_probabilities_are_those_of_a_slow_walk_down_the_trie(family, labels, tiny_tokenizer):
    model = tiny(family, len(tiny_tokenizer))
    sequences = label_token_ids(tiny_tokenizer, labels)
    prompts = [encode_prompt(tiny_tokenizer, build_messages(text, "分類して")) for text in TEXTS]
    fast, _ = label_probabilities(CachedBatch(model, prompts), prompts, sequences)
    assert torch.allclose(fast.sum(dim=1), torch.ones(len(prompts), dtype=torch.float64))
    for row, prompt in zip(fast, prompts, strict=True):
        torch.testing.assert_close(row, one_by_one(model, prompt, sequences), rtol=1e-4, atol=1e-6)


def test_labels_that_differ_in_their_first_token_take_one_pass(tiny_tokenizer):
    model, prompts, passes = tiny("gemma", len(tiny_tokenizer)), [[2, 5, 6]], []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    sequences = label_token_ids(tiny_tokenizer, LABELS)
    assert max(map(len, sequences)) == 2
    label_probabilities(CachedBatch(model, prompts), prompts, sequences)
    assert len(passes) == 1
