"""The base model and the fine-tuned one, ready to answer."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from emojitune import model as models
from emojitune.artifacts import OutputDirectory, UserError, command
from emojitune.chat import Generation, generate, label_probabilities
from emojitune.dataset import printable


@dataclass(frozen=True)
class Speaker:
    """A model that answers, by the name that the user knows it by: `base` or `fine-tuned`."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    weights: str  # the first weight file's SHA-256: two speakers must differ in it

    def reply(self, prompt: Sequence[int], generation: Generation, write: Callable[[str], None] | None = None) -> str:
        """The reply on one line, control characters made harmless; `write` gets it in pieces as it comes."""
        clean = None if write is None else lambda piece: write(printable(piece))
        return printable(generate(self.model, self.tokenizer, [prompt], generation, clean)[0])

    def likeliest(self, prompt: Sequence[int], labels: Sequence[str]) -> list[tuple[str, float]]:
        """The labels with their probabilities, the likeliest first."""
        probabilities = label_probabilities(self.model, self.tokenizer, [prompt], labels)[0].tolist()
        return sorted(zip(labels, probabilities, strict=True), key=lambda pair: -pair[1])


def load_base(name: str, verify: bool = False) -> Speaker:
    """The base model of that name. Raises UserError when it is not to be had."""
    base = models.find_base_model(name, verify)
    return _load("base", base.folder, base.weights)


def load_finetuned(output: OutputDirectory, run: dict[str, Any]) -> Speaker:
    """The model that 03 wrote. Raises UserError when its weights are those of the base model: then nothing was
    trained, or the files were mixed up, and a comparison would compare a model with itself."""
    weights = {Path(name).name: print_ for name, print_ in run["outputs"].items() if name.endswith(".safetensors")}
    if {print_["sha256"] for print_ in weights.values()} == {
        print_["sha256"] for print_ in run["base_model"]["weights"].values()
    }:
        raise UserError(
            f"{output.model} holds the base model's own weights; train again: {command('03_train_model.py', output)}"
        )
    return _load("fine-tuned", output.model, weights)


def _load(name: str, folder: Path, weights: dict[str, Any]) -> Speaker:
    device = models.choose_device()
    with ThreadPoolExecutor(1) as pool:  # side by side: each takes some three seconds
        tokenizer = pool.submit(models.load_tokenizer, folder)
        model = sharpen(models.load_model(folder, device, models.choose_products(device)))
        return Speaker(name, model, tokenizer.result(), next(iter(weights.values()))["sha256"])


def sharpen(model: PreTrainedModel, likeliest: int = 32) -> PreTrainedModel:
    """Let the model give its `likeliest` tokens' logits in float32, if it computes in bf16.

    bf16 has eight binary digits: from 16 to 32, where the best logits are, it knows nothing between 20 and 20.125, and
    labels would tie that are not alike.
    """

    def recompute(layer: torch.nn.Linear, inputs: tuple[torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
        top = logits.topk(min(likeliest, logits.shape[-1]), dim=-1).indices
        exact = torch.einsum("...d,...wd->...w", inputs[0].float(), layer.weight[top].float())
        if layer.bias is not None:
            exact += layer.bias[top].float()
        return logits.float().scatter_(-1, top, exact)

    if model.dtype == torch.bfloat16:
        model.get_output_embeddings().register_forward_hook(recompute)
    return model
