"""Load a model and its tokenizer; choose device and dtype; memory."""

import contextlib
import ctypes
import gc
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import torch
import transformers  # its models are imported with the first use: step 1 needs the tokenizer only
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging

from emojitune.artifacts import UserError, write_json, write_text
from emojitune.model.prefix_tree import samples_stay_apart

END_OF_TURN = "<end_of_turn>"

# Gemma's chat template with the generation marks that the loss mask is read from.
TRAINING_TEMPLATE = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder; Gemma's gets our training template, whatever it came with.

    Raises:
        UserError: if the folder has none, or if a model of another family has no chat template.
    """
    try:
        # AutoTokenizer takes twice as long to build the same; without the last argument transformers would read the
        # 33 MB a second time, for added tokens that it has by then.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True, added_tokens_decoder={})
    except Exception as error:  # the tokenizers library raises no narrower one
        raise UserError(f"{folder} has no tokenizer that transformers can read ({first_line(error)})") from None
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # Llama 3 has none, and `generate` pads
    if end_of_turn_id(tokenizer) is not None:
        tokenizer.chat_template = TRAINING_TEMPLATE
    elif not tokenizer.chat_template:
        raise UserError(f"the tokenizer in {folder} has no chat template; choose a Gemma model")
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a tokenizer so that transformers 4 and 5, and other engines, load it."""
    tokenizer.save_pretrained(folder)
    template = re.sub(r"{#-.*?-#}\n?", "", tokenizer.chat_template, flags=re.DOTALL)
    template = re.sub(r"{%-? *(end)?generation *-?%}", "", template)  # other engines refuse these marks
    write_text(folder / "chat_template.jinja", template)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # transformers 5 names a class that 4 does not have
    config["model_input_names"] = ["input_ids", "attention_mask"]  # 4 would add token_type_ids, which no model takes
    config.pop("backend", None)
    if isinstance(config.get("extra_special_tokens"), list):  # 4 knows such a list by its older name only
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    write_json(path, config)


@cache
def embedded_tokenizer() -> PreTrainedTokenizerBase:
    from emojitune.model.base_model import EMBEDDED, find_base_model

    return load_tokenizer(find_base_model(EMBEDDED).folder)


def token_lengths(conversations: Sequence[Sequence[dict[str, str]]]) -> list[int]:
    """The length in tokens of each conversation, chat template included, by the embedded model's tokenizer."""
    if not conversations:
        return []
    encoded = embedded_tokenizer().apply_chat_template(conversations, return_dict=True)
    return list(map(len, encoded["input_ids"]))


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id of <end_of_turn>, or None where the tokenizer has no such token."""
    token = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    return None if token == tokenizer.unk_token_id else token


def stop_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that end a reply: <eos>, and <end_of_turn> where the tokenizer has it."""
    return [token for token in (tokenizer.eos_token_id, end_of_turn_id(tokenizer)) if token is not None]


def load_model(folder: Path, device: torch.device, dtype: torch.dtype) -> "transformers.PreTrainedModel":
    """The model of a folder, on `device` in `dtype`, in evaluation mode. Only safetensors, and no code of the folder.

    Raises:
        UserError: if transformers cannot read it, or would start some of its weights at random.
    """
    try:
        options = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
        options |= {"ignore_mismatched_sizes": True, "output_loading_info": True}  # told below, in one sentence
        with quiet_transformers():
            model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, StrictDataclassError) as error:
        raise UserError(f"{folder} holds no model that transformers can read ({first_line(error)})") from None
    if lacking := sorted([*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])]):
        raise UserError(f"{folder} lacks weights that its config.json names, such as {lacking[0]}; get the whole model")
    return model.to(device).eval()


def load_trainable(folder: Path, device: torch.device) -> "transformers.PreTrainedModel":
    """The model for training, on the CPU until the trainer moves it. In fp32: bf16 would round small steps away.

    Its embeddings are frozen: few of the vocabulary's tokens occur in the data.

    Raises:
        UserError: if transformers cannot read it, if several samples in a row would see each other (models with
            recurrent layers do that), or if there are several GPUs and no launcher was used.
    """
    count = torch.cuda.device_count()
    if device.type == "cuda" and count > 1 and "RANK" not in os.environ:
        raise UserError(
            f"this machine has {count} GPUs: set CUDA_VISIBLE_DEVICES=0 to use one, or start with: "
            f"uv run accelerate launch --num_processes {count} 03_train_model.py"
        )
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no"  # a launcher's settings may say fp16; `select_dtype` decides
    model = load_model(folder, torch.device("cpu"), torch.float32)
    if not samples_stay_apart(model):
        kind = model.config.model_type
        raise UserError(f"{kind} models cannot be trained here: samples in a row would see each other; choose another")
    model.get_input_embeddings().weight.requires_grad_(False)
    return model


def select_device(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU when there is one.

    Raises:
        UserError: if this machine has no such device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, present in available.items() if present)
    if not available[name]:
        raise UserError(f"--device {name}: PyTorch finds no such device here; leave it out, or choose --device cpu")
    return torch.device(name)


def select_dtype(device: torch.device) -> torch.dtype:
    """bf16 where a GPU has it in hardware, fp32 elsewhere. Never fp16: Gemma 3's activations overflow it."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bars and notes off the screen: our scripts say what matters."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()


def release_memory() -> None:
    """Return freed heap pages to the OS (glibc `malloc_trim`); the tokenizer alone leaves 0.5 GB of fragments."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory_bytes() -> int:
    """The most memory so far, in bytes: PyTorch's on a GPU that is used, else this process's; 0 on Windows."""
    if torch.cuda.is_initialized() and torch.cuda.max_memory_reserved():
        return torch.cuda.max_memory_reserved()
    if sys.platform == "linux":  # where `resource` counts that of the parent process as well
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 0
