"""Random models of two families, small and lively: every token changes the logits a lot."""

import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.4,
    "tie_word_embeddings": False,  # tied, a random model repeats its last token
}
FAMILIES = ("gemma", "gemma with a window of 16", "llama", "llama without our masks")


def tiny(family: str, vocab_size: int) -> torch.nn.Module:
    torch.manual_seed(0)
    if family.startswith("llama"):
        attention = "eager" if "without" in family else "sdpa"
        return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **SIZES, attn_implementation=attention)).eval()
    layers = ["sliding_attention", "full_attention"] * 2
    window = 16 if "window" in family else 512
    return Gemma3ForCausalLM(
        Gemma3TextConfig(vocab_size=vocab_size, **SIZES, layer_types=layers, sliding_window=window)
    ).eval()


@torch.inference_mode()
def slow_logits(model: torch.nn.Module, token_ids: list[int]) -> torch.Tensor:
    """The logits after the last token of one row, nothing cached, nothing padded."""
    return model(torch.tensor([token_ids])).logits[0, -1].double()
