"""A tiny random Gemma for logic, a small dataset, and one pipeline output that all tests copy."""

import importlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from filelock import FileLock

os.environ["TQDM_DISABLE"] = "1"  # a failing test prints what was said, without the bars
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from more, and two tests run at a time
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tests fork

ROOT = Path(__file__).parent.parent
STEPS = ("01_prepare_data.py", "02_split_data.py", "03_train_model.py", "04_plot_loss.py", "05_test_base.py")
SCRIPTS = (*STEPS, "06_test_finetuned_single.py", "run_pipeline.py", "export_gguf.py")
SYSTEM = "このツイートを絵文字で感情分類してください"


def script(name: str) -> ModuleType:
    """A script as a module; each has `main(argv)`."""
    return importlib.import_module(name.removesuffix(".py").replace("/", "."))


def run_script(name: str, *argv: object) -> int:
    """Run a script's main as the command line would, errors turned into a status."""
    from emojitune.cli import run_main

    try:
        return run_main(script(name).main, [str(argument) for argument in argv])
    except SystemExit as stop:  # argparse
        return stop.code


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def tokenizer():
    """Gemma's own."""
    from emojitune.model.loading import embedded_tokenizer

    return embedded_tokenizer()


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A tokenizer of bytes, turns and labels: loaded in a moment, where Gemma's takes seconds."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from emojitune.data.emojis import LABELS
    from emojitune.model.loading import END_OF_TURN, TRAINING_TEMPLATE

    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", END_OF_TURN]
    names = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    # As in Gemma's: every label is one token, but the frowning face is two.
    pieces = [label for label in LABELS if len(label) == 1] + list("☹️")
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in pieces])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
    wrapped.chat_template = TRAINING_TEMPLATE
    return wrapped


def random_model(family: str, vocab_size: int, **changes):
    """A model of two layers; it trains in a second. `changes` are to its config."""
    import torch
    from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig

    torch.manual_seed(0)
    settings = {"vocab_size": vocab_size, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    settings |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    settings |= {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, **changes}
    if family == "gemma":
        layers = ["sliding_attention", "full_attention"] * (settings["num_hidden_layers"] // 2)
        config = Gemma3TextConfig(**{"sliding_window": 512, "layer_types": layers, **settings})
    else:
        config = LlamaConfig(**settings)
    return AutoModelForCausalLM.from_config(config).eval()


def save(model, tokenizer, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def taught(model, tokenizer):
    """The model after three passes over the single turns: an untrained one never gives a label, right or wrong."""
    import torch

    from emojitune.data.samples import load_samples
    from emojitune.training.tokenization import tokenize

    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for row in 3 * list(tokenize(load_samples(SMALL_DATA[:15]), tokenizer, 512, "training")):
        ids, labels = (torch.tensor([row[name]]) for name in ("input_ids", "labels"))
        optimizer.zero_grad()
        model(ids, labels=labels).loss.backward()
        optimizer.step()
    return model


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """A folder that all workers of this session see."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """`folder` as `build` fills it, by the first worker that comes."""
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            making = folder.with_name(f"making-{folder.name}")
            making.mkdir()
            build(making)
            making.rename(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(shared, tiny_tokenizer) -> Path:
    def build(folder: Path) -> None:
        save(taught(random_model("gemma", len(tiny_tokenizer)), tiny_tokenizer), tiny_tokenizer, folder)

    return build_once(shared / "tiny-gemma", build)


def conversation(turns: list[tuple[str, str]], system: str | None = SYSTEM) -> dict:
    messages = [{"role": "system", "content": system}] if system else []
    for text, label in turns:
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": label}]
    return {"messages": messages}


def sample(text: str, label: str, system: str | None = SYSTEM) -> dict:
    return conversation([(text, label)], system)


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


@pytest.fixture(scope="session")
def stages(shared, tiny_model) -> dict[str, tuple[Path, list[str]]]:
    """For each script, an output directory in which all steps before it are done, and its flags; `done` is the last."""
    data = shared / "small_data.json"
    flags = {script: [] for script in STEPS} | {
        "01_prepare_data.py": ["--data", str(data)],
        "02_split_data.py": ["--validation-fraction", "0.4", "--seed", "44"],  # with a conversation to measure
        "03_train_model.py": ["--model", str(tiny_model), "--epochs", "2", "--learning-rate", "0.05"],
    }

    def build(folder: Path) -> None:
        data.write_text(json.dumps(SMALL_DATA, ensure_ascii=False), encoding="utf-8")
        output = folder / "done"
        output.mkdir()
        for script in STEPS:
            shutil.copytree(output, folder / script)
            assert run_script(script, *flags[script], "--output-dir", output) == 0

    folder = build_once(shared / "stages", build)
    return {script: (folder / script, flags[script]) for script in STEPS} | {"done": (folder / "done", [])}


def copy_of(stage: tuple[Path, list[str]], tmp_path: Path) -> Path:
    return shutil.copytree(stage[0], tmp_path / "out")


def output_before(stage: str):
    """A fixture: a copy of the output directory before that script has run."""
    return pytest.fixture(lambda stages, tmp_path: copy_of(stages[stage], tmp_path))


prepared = output_before("03_train_model.py")
trained = output_before("04_plot_loss.py")
evaluated = output_before("done")


@pytest.fixture
def write_data(tmp_path) -> Callable[[object], Path]:
    def write(value: object, name: str = "bad.json") -> Path:
        path = tmp_path / name
        text = value if isinstance(value, str | bytes) else json.dumps(value, ensure_ascii=False)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture
def small_data(write_data) -> Path:
    return write_data(SMALL_DATA, "data.json")


@pytest.fixture
def quick_step_1(monkeypatch) -> None:
    """Step 1 without counting tokens and drawing, each of which takes seconds."""
    monkeypatch.setattr("emojitune.model.loading.token_lengths", lambda rows: [len(str(row)) for row in rows])
    monkeypatch.setattr("emojitune.reporting.figures.draw_labels", lambda counts, title, path: path.write_bytes(b""))
