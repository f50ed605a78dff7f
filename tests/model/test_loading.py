"""Tokenizer, chat template, device and memory."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from emojitune.artifacts import UserError, write_json
from emojitune.model import base_model
from emojitune.model.base_model import EMBEDDED, find_base_model
from emojitune.model.loading import load_tokenizer, peak_memory_bytes, save_tokenizer, select_device, select_dtype

CONVERSATION = [
    {"role": "system", "content": "分類して"},
    {"role": "user", "content": " 今日は最高 "},
    {"role": "assistant", "content": "😀"},
    {"role": "user", "content": "でも眠い"},
]


def test_the_prompt_is_googles_with_the_saved_template_as_well(tiny_tokenizer, tmp_path):
    """The saved one has no generation marks: other engines refuse them."""
    save_tokenizer(tiny_tokenizer, tmp_path)
    for each, marks in ((tiny_tokenizer, True), (AutoTokenizer.from_pretrained(tmp_path), False)):
        assert ("generation -%}" in each.chat_template) == marks
        assert each.apply_chat_template(CONVERSATION, add_generation_prompt=True, tokenize=False) == (
            "<bos><start_of_turn>user\n分類して\n\n今日は最高<end_of_turn>\n<start_of_turn>model\n😀<end_of_turn>\n"
            "<start_of_turn>user\nでも眠い<end_of_turn>\n<start_of_turn>model\n"
        )


def test_the_tokenizer_is_what_transformers_reads(tokenizer):
    stock = PreTrainedTokenizerFast.from_pretrained(find_base_model(EMBEDDED).folder, local_files_only=True)
    assert tokenizer.backend_tokenizer.to_str() == stock.backend_tokenizer.to_str()
    assert tokenizer.special_tokens_map == stock.special_tokens_map


def test_a_tokenizer_without_padding_pads_with_its_end(tiny_tokenizer, tmp_path):
    save_tokenizer(tiny_tokenizer, tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
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
    parent = f"import subprocess, sys; held = bytearray(2**29); subprocess.run([sys.executable, '-c', {measure!r}])"
    said = subprocess.run([sys.executable, "-c", parent], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    before, after = map(int, said.split())
    assert before < 2**28
    assert before + 2**27 - 2**20 <= after < 2**29  # the kernel counts a few dozen pages late


def test_windows_has_neither_proc_nor_resource(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory_bytes() == 0
