"""Tokenizer, chat template, device and memory; and that a saved model folder has what other loaders read.

The folder was loaded with transformers 4.57, mlx-lm and vLLM by hand; here the keys are pinned that they need.
"""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, load, sample
from transformers import AutoConfig, AutoTokenizer, Gemma3TextConfig, LlamaConfig, PreTrainedTokenizerFast, Qwen3Config

from emojitune.artifacts import UserError, write_json
from emojitune.model import base_model
from emojitune.model.base_model import EMBEDDED, find_base_model
from emojitune.model.loading import load_tokenizer, peak_memory_bytes, save_tokenizer, select_device, select_dtype
from emojitune.training.run_record import add_rope_settings_of_version_4


def test_the_prompt_is_googles_with_the_saved_template_as_well(tiny_tokenizer, tmp_path):
    """The saved one has no generation marks: other engines refuse them."""
    messages = [*sample(" 今日は最高 ", "😀", "分類して")["messages"], {"role": "user", "content": "でも眠い"}]
    save_tokenizer(tiny_tokenizer, tmp_path)
    for each, marks in ((tiny_tokenizer, True), (AutoTokenizer.from_pretrained(tmp_path), False)):
        assert ("generation -%}" in each.chat_template) == marks
        assert each.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == (
            "<bos><start_of_turn>user\n分類して\n\n今日は最高<end_of_turn>\n<start_of_turn>model\n😀<end_of_turn>\n"
            "<start_of_turn>user\nでも眠い<end_of_turn>\n<start_of_turn>model\n"
        )


def test_the_tokenizer_is_what_transformers_reads(tokenizer):
    stock = PreTrainedTokenizerFast.from_pretrained(find_base_model(EMBEDDED).folder, local_files_only=True)
    assert tokenizer.backend_tokenizer.to_str() == stock.backend_tokenizer.to_str()
    assert tokenizer.special_tokens_map == stock.special_tokens_map


def test_a_tokenizer_without_padding_pads_with_its_end(tiny_tokenizer, tmp_path):
    save_tokenizer(tiny_tokenizer, tmp_path)
    config = load(tmp_path / "tokenizer_config.json")
    del config["pad_token"]
    write_json(tmp_path / "tokenizer_config.json", config)
    assert load_tokenizer(tmp_path).pad_token == "<eos>"


def test_a_device_that_is_not_there_is_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert select_device("auto").type == select_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="--device cuda: PyTorch finds no such device"):
        select_device("cuda")


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_gpu_that_only_emulates_bf16_trains_in_fp32(native, dtype, monkeypatch):
    """A T4 says that it supports bf16 and is slower with it."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert select_dtype(torch.device("cuda")) == dtype
    assert select_dtype(torch.device("cpu")) == select_dtype(torch.device("mps")) == torch.float32


def test_a_read_only_cache_that_holds_the_model_is_used(tmp_path, monkeypatch):
    """It used to be converted again into the temporary folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)
    folder = tmp_path / "emojitune/base-model" / base_model._CONVERSION / "model"
    write_json(folder / "recorded.json", {"a.safetensors": {"sha256": "00", "bytes": 1}})
    (folder / "a.safetensors").write_text("x")
    assert find_base_model(EMBEDDED) == base_model.BaseModel(EMBEDDED, folder, {"a.safetensors": "00"})
    (folder / "a.safetensors").write_text("damaged")
    with pytest.raises(UserError, match="set HF_HOME to a folder of yours"):
        find_base_model(EMBEDDED)


def test_peak_memory_is_this_process_own_and_not_that_of_its_parent():
    measure = "from emojitune.model.loading import peak_memory_bytes as p; print(p()); x = bytearray(2**27); print(p())"
    parent = f"import subprocess, sys; held = bytearray(2**30); subprocess.run([sys.executable, '-c', {measure!r}])"
    said = subprocess.run([sys.executable, "-c", parent], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    before, after = map(int, said.split())
    assert before + 2**27 - 2**20 <= after < 2**30  # the kernel counts a few dozen pages late


def test_windows_has_neither_proc_nor_resource(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory_bytes() == 0


# ---- other loaders --------------------------------------------------------------------------------------------------

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
    saved = load(tmp_path / "config.json")
    keys = ("rope_theta", "rope_local_base_freq", "rope_scaling")
    assert {key: saved[key] for key in keys if key in saved} == expected
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == config.rope_parameters


def test_a_tokenizer_with_extra_special_tokens_loads_in_version_4(tiny_tokenizer, tmp_path):
    """Qwen's has a list of them; version 4 stops at a list under the name that version 5 writes."""
    tiny_tokenizer.save_pretrained(tmp_path / "from")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "from", extra_special_tokens=["<|im_start|>", "<|im_end|>"])
    save_tokenizer(tokenizer, tmp_path / "to")
    saved = load(tmp_path / "to/tokenizer_config.json")
    assert "extra_special_tokens" not in saved
    assert saved["additional_special_tokens"] == ["<|im_start|>", "<|im_end|>"]
    assert AutoTokenizer.from_pretrained(tmp_path / "to").extra_special_tokens == saved["additional_special_tokens"]


def test_a_trained_model_folder_has_the_keys_of_version_4(trained):
    folder = trained / "03_model"
    config = load(folder / "config.json")
    assert config["rope_theta"] == 1e6 and config["rope_local_base_freq"] == 1e4
    assert config["architectures"] == ["Gemma3ForCausalLM"] and config["model_type"] == "gemma3_text"
    tokenizer = load(folder / "tokenizer_config.json")
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast" and "backend" not in tokenizer
    assert tokenizer["model_input_names"] == ["input_ids", "attention_mask"]
