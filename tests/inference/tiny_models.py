"""Random models of two families, small and lively: every token changes the logits a lot."""

import torch
from conftest import random_model

LIVELY = {"initializer_range": 0.4, "tie_word_embeddings": False}  # tied, a random model repeats its last token
TEXTS = ("今日は最高", "もう無理、帰りたい、でもまだ仕事が終わらないし電車もない", "ん")  # of different lengths
FAMILIES = {
    "gemma": {},
    "gemma with a window of 16": {"sliding_window": 16},
    "llama": {},
    "llama without our masks": {"attn_implementation": "eager"},
}


def tiny(family: str, vocab_size: int) -> torch.nn.Module:
    return random_model(family.split()[0], vocab_size, **LIVELY, **FAMILIES[family])


@torch.inference_mode()
def slow_logits(model: torch.nn.Module, token_ids: list[int]) -> torch.Tensor:
    """The logits after the last token of one row, nothing cached, nothing padded."""
    return model(torch.tensor([token_ids])).logits[0, -1].double()
