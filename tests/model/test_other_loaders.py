"""A saved model folder has what transformers 4.57, mlx-lm and vLLM read, though transformers 5 wrote it.

It was loaded with those by hand; here the keys are pinned that they need.
"""

import json

import pytest
from transformers import AutoConfig, AutoTokenizer, Gemma3TextConfig, LlamaConfig, Qwen3Config

from emojitune.model.loading import save_tokenizer
from emojitune.training.run_record import add_rope_settings_of_version_4

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3["original_max_position_embeddings"] = 8192
LINEAR = {"rope_type": "linear", "factor": 8.0}
GEMMA3 = {
    "full_attention": {**LINEAR, "rope_theta": 2e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
}


@pytest.mark.parametrize(
    ("kind", "parameters", "expected"),
    [
        (Gemma3TextConfig, GEMMA3, {"rope_theta": 2e6, "rope_local_base_freq": 2e4, "rope_scaling": LINEAR}),
        # Version 4 would take 10,000 for a Qwen 3 whose config does not say, and reply with nonsense.
        (Qwen3Config, {"rope_type": "default", "rope_theta": 1e6}, {"rope_theta": 1e6}),
        (LlamaConfig, {**LLAMA3, "rope_theta": 5e5}, {"rope_theta": 5e5, "rope_scaling": LLAMA3}),
    ],
)
def test_the_rotary_embedding_is_told_to_both_versions(kind, parameters, expected, tmp_path):
    config = kind(num_hidden_layers=6, rope_parameters=parameters)
    config.save_pretrained(tmp_path)
    add_rope_settings_of_version_4(tmp_path / "config.json")
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    keys = ("rope_theta", "rope_local_base_freq", "rope_scaling")
    assert {key: saved[key] for key in keys if key in saved} == expected
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == config.rope_parameters


def test_a_tokenizer_with_extra_special_tokens_loads_in_version_4(tiny_tokenizer, tmp_path):
    """Qwen's has a list of them; version 4 stops at a list under the name that version 5 writes."""
    tiny_tokenizer.save_pretrained(tmp_path / "from")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "from", extra_special_tokens=["<|im_start|>", "<|im_end|>"])
    save_tokenizer(tokenizer, tmp_path / "to")
    saved = json.loads((tmp_path / "to/tokenizer_config.json").read_text(encoding="utf-8"))
    assert "extra_special_tokens" not in saved
    assert saved["additional_special_tokens"] == ["<|im_start|>", "<|im_end|>"]
    assert AutoTokenizer.from_pretrained(tmp_path / "to").extra_special_tokens == saved["additional_special_tokens"]


def test_a_trained_model_folder_has_the_keys_of_version_4(trained):
    folder = trained / "03_model"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["rope_theta"] == 1e6 and config["rope_local_base_freq"] == 1e4
    assert config["architectures"] == ["Gemma3ForCausalLM"] and config["model_type"] == "gemma3_text"
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast" and "backend" not in tokenizer
    assert tokenizer["model_input_names"] == ["input_ids", "attention_mask"]
