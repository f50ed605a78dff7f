"""Rows that share a start, grow, are taken back: always the logits of each sequence by itself."""

import random

import pytest
import torch
from inference.tiny_models import FAMILIES, slow_logits, tiny

from emojitune.inference.cached_batch import CachedBatch


def random_tokens(generator, count):
    return [generator.randrange(5, 100) for _ in range(count)]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_each_sequence_by_itself(family):
    model, generator = tiny(family, 100), random.Random(0)
    shared = random_tokens(generator, 6)
    rows = [shared + random_tokens(generator, count) for count in (1, 9, 30, 4)]
    batch = CachedBatch(model, rows)
    assert batch.rows == [shared] * 4
    for grow in (0, 1, 7):  # the prompts; a token; a later turn, of which each row takes other tokens back
        if grow:
            rows = [row[: len(row) - (grow > 1) * n] + random_tokens(generator, grow + n) for n, row in enumerate(rows)]
        expected = torch.stack([slow_logits(model, row) for row in rows])
        torch.testing.assert_close(batch.extend_to(rows).double(), expected, rtol=1e-4, atol=1e-3)
