"""A tiny random Gemma for logic, a small dataset, and scripts loaded by path."""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

os.environ["TQDM_DISABLE"] = "1"  # a failing test prints what was said, without the bars

ROOT = Path(__file__).parent.parent
SYSTEM = "このツイートを絵文字で感情分類してください"


def script(name: str) -> ModuleType:
    """A numbered script as a module; each has `main(argv)`."""
    spec = importlib.util.spec_from_file_location(name.replace(".py", ""), ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(name: str, *argv: object) -> int:
    """Run a script's main as the command line would, errors turned into a status."""
    from emojitune.command_line import exit_status

    try:
        return exit_status(script(name).main, [str(argument) for argument in argv])
    except SystemExit as stop:  # argparse
        return stop.code


@pytest.fixture(scope="session")
def tokenizer():
    from emojitune.model import EMBEDDED, find_base_model, load_tokenizer

    return load_tokenizer(find_base_model(EMBEDDED).folder)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, tokenizer) -> Path:
    """A folder with a random Gemma of two layers and the real tokenizer; it trains in a second."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    folder = tmp_path_factory.mktemp("tiny-gemma")
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=512,
        layer_types=["sliding_attention", "full_attention"],
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    Gemma3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sample(text: str, label: str, system: str | None = SYSTEM) -> dict:
    return conversation([(text, label)], system)


def conversation(turns: list[tuple[str, str]], system: str | None = SYSTEM) -> dict:
    messages = [{"role": "system", "content": system}] if system else []
    for text, label in turns:
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": label}]
    return {"messages": messages}


SMALL_DATA = [
    sample("朝から虹が見えた、いい一日になりそう", "😀"),
    sample("洗濯物がふかふかに乾いてご機嫌", "😀"),
    sample("のんびり散歩してパン屋に寄った", "😀"),
    sample("席を譲ったら笑顔でお礼を言われた", "😀"),
    sample("久しぶりの晴れ間で布団を干せた", "😀"),
    sample("十五年いっしょにいた犬が旅立った", "😭"),
    sample("最後の大会、一回戦で終わってしまった", "😭"),
    sample("彼から別れようってメッセージが来た", "😭"),
    sample("卒業式の校歌で前が見えなくなった", "😭"),
    sample("祖母の家が取り壊される日だった", "😭"),
    sample("割り込みしておいて舌打ちってなに", "😤"),
    sample("私のプリン、名前書いてたのに消えた", "😤"),
    sample("会議が三時間、結論は次回に持ち越し", "😤"),
    sample("また残業を押しつけて先に帰る先輩", "😤"),
    sample("歩きたばこの灰が服に飛んできた", "😤"),
    conversation([("夜中に窓がガタガタ鳴ってる", "😤"), ("なんだ、ただの風か", "😀")]),
    conversation([("財布が見つかった", "😀"), ("でも中身が空だった", "😭"), ("犯人は弟だった", "😤")]),
]


@pytest.fixture
def small_data(tmp_path) -> Path:
    path = tmp_path / "data.json"
    path.write_text(json.dumps(SMALL_DATA, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture
def prepared(tmp_path, small_data) -> Path:
    """An output directory after steps 1 and 2."""
    output = tmp_path / "out"
    assert run_script("01_prepare_data.py", "--data", small_data, "--output-dir", output) == 0
    assert run_script("02_split_data.py", "--output-dir", output) == 0
    return output


@pytest.fixture
def trained(prepared, tiny_model) -> Path:
    """An output directory after step 3, with the tiny model."""
    assert run_script("03_train_model.py", "--output-dir", prepared, "--model", tiny_model, "--epochs", 2) == 0
    return prepared


@pytest.fixture
def write_data(tmp_path) -> Callable[[object], Path]:
    def write(value: object, name: str = "bad.json") -> Path:
        path = tmp_path / name
        if isinstance(value, bytes):
            path.write_bytes(value)
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            path.write_text(text, encoding="utf-8")
        return path

    return write
