"""A batch of prompts with the keys and values computed so far, so that no token goes through the model twice."""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

from emojitune.model.prefix_tree import attention_mask, common_prefix_length, supports_prefix_tree


class CachedBatch:
    """Rows of tokens, and the model's keys and values for them.

    A row's slots in the cache may have gaps: padding, and tokens that were taken back. Attention therefore goes by the
    position that each slot holds, not by its place in the cache.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
        """A row for each prompt, with what all of them begin with, such as the system prompt: that is computed once."""
        self.model = model
        self.rows: list[Sequence[int]] = [[]]
        self._cache = DynamicCache()  # without the model's config: it would drop what left a sliding window by slots
        self._positions = torch.empty(1, 0, dtype=torch.long, device=model.device)  # (rows, slots), -1 in a gap
        shared = common_prefix_length(min(prompts), max(prompts))  # what these two begin with, all do
        if 0 < shared < len(prompts[0]):  # a single prompt shares nothing
            self.extend_to([prompts[0][:shared]])
        self.rows *= len(prompts)
        self._positions = self._positions.repeat(len(prompts), 1)
        self._cache.batch_repeat_interleave(len(prompts))

    @torch.inference_mode()
    def extend_to(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """The logits after the last token of each sequence, (rows, vocabulary), fp32.

        What a sequence has in common with the former one of its row is not computed again; the rest becomes gaps.
        """
        kept = [min(common_prefix_length(*pair), len(pair[1]) - 1) for pair in zip(self.rows, sequences, strict=True)]
        first_gone = torch.tensor(kept, device=self.model.device)[:, None]
        self._positions = self._positions.masked_fill(self._positions >= first_gone, -1)
        token_ids = self._pad([tokens[start:] for tokens, start in zip(sequences, kept, strict=True)], 0)
        added = self._pad([range(start, len(tokens)) for tokens, start in zip(sequences, kept, strict=True)], -1)
        self._positions = torch.cat([self._positions, added], dim=1)
        added = added.clamp(min=0)  # padding sees the first token, rather than nothing: that would be NaN
        output = self.model(
            input_ids=token_ids,
            position_ids=added,
            attention_mask=self._attention_mask(added),
            cache=self._cache,
            logits_to_keep=1,
        )
        self.rows = list(sequences)
        return output.logits[:, -1].float()

    def _pad(self, rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
        """(rows, width); padded on the left, so that every row ends in the last slot."""
        tensors = [torch.tensor(row) for row in rows]
        return pad_sequence(tensors, True, value, padding_side="left").to(self.model.device)

    def _attention_mask(self, added: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """What the new tokens, at the positions `added` (rows, width), attend to."""
        present = self._positions >= 0
        if not supports_prefix_tree(self.model):
            return present.long()  # transformers makes the causal mask; it counts gaps as part of a sliding window
        distance = added[:, :, None] - self._positions[:, None, :]
        return attention_mask(self.model, present[:, None, :] & (distance >= 0), distance)
