"""Rows that share, grow, are taken back: always the logits of each sequence by itself."""

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
    start = CachedBatch(model, 1)
    start.extend_to([shared])
    batch = start.select([0] * 4)
    rows = [shared + random_tokens(generator, count) for count in (1, 9, 30, 4)]
    for grow in (0, 1, 7):  # the prompts; a token; a later turn, of which each row takes other tokens back
        if grow:
            rows = [row[: len(row) - (grow > 1) * n] + random_tokens(generator, grow + n) for n, row in enumerate(rows)]
        expected = torch.stack([slow_logits(model, row) for row in rows])
        torch.testing.assert_close(batch.extend_to(rows).double(), expected, rtol=1e-4, atol=1e-3)
    few = batch.select([3, 1])
    assert torch.equal(few.extend_to([rows[3], rows[1]]).argmax(1), expected[[3, 1]].argmax(1))
    assert start.rows == [shared]  # its copies have not changed it
