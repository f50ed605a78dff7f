"""The base model and the fine-tuned one, ready to answer."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        model = models.load_model(folder, device, models.choose_dtype(device))
        return Speaker(name, model, tokenizer.result(), next(iter(weights.values()))["sha256"])
