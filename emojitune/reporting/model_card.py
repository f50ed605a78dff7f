"""The README.md of a fine-tuned model, for whoever gets the folder without this project."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emojitune.artifacts import OutputDirectory, write_text

if TYPE_CHECKING:  # step 3 writes a card as well, and needs no evaluation for it
    from emojitune.evaluation.metrics import Evaluation

EMBEDDED_HUB_ID = "google/gemma-3-270m"

GEMMA_NOTICE = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at https://ai.google.dev/gemma/terms\n"
)

GEMMA_LICENCE = f"""\
{GEMMA_NOTICE}
This is a fine-tuned, hence modified, Gemma model. You may use, change and share it, also commercially, as long as you
keep to those terms and to the Prohibited Use Policy that is part of them
(https://ai.google.dev/gemma/prohibited_use_policy). When you give it to others, pass on a copy of the terms, the same
use restrictions, and the text file NOTICE that is beside this one."""

USAGE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this README.md is
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
messages = {messages}
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
reply = model.generate(**prompt, max_new_tokens=8, do_sample=False)
print(tokenizer.decode(reply[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))"""


def write_model_card(output: OutputDirectory, run: Mapping[str, Any], evaluation: "Evaluation | None" = None) -> None:
    """Write `03_model/README.md` from what run.json holds; with metrics once step 5 has measured them.

    Beside a fine-tuned Gemma stands the NOTICE that its terms demand of whoever passes it on.
    """
    from huggingface_hub import ModelCard, ModelCardData

    name = run["base_model"]["name"]
    embedded, local = name == "embedded", Path(name).is_dir()
    base = EMBEDDED_HUB_ID if embedded else Path(name).name if local else name  # a path means nothing elsewhere
    data = ModelCardData(
        language="ja",
        license="gemma" if embedded else None,
        base_model=None if local else base,
        pipeline_tag="text-generation",
        library_name="transformers",
        tags=["emotion", "trl", "sft"],
    )
    settings = [f"- {key}: {value}" for key, value in run["settings"].items() if value is not None and key != "model"]
    sections = [
        f"# {Path(base).name}, fine-tuned to label Japanese texts",
        f"Fine-tuned from {base}; the weights of epoch {run['best_epoch']} of {len(run['epochs'])}, with the lowest "
        "validation loss. The model replies to each text by itself; it was not trained for conversations.",
        "## How to use it",
        f"```python\n{USAGE.format(messages=_messages(run['system_prompt']))}\n```",
        "## Data",
        f"{_counts(output)} Each text has one of {len(run['labels'])} labels: {', '.join(run['labels'])}",
        "## Metrics",
        _metrics(evaluation) if evaluation else "Not measured yet.",
        "## Settings",
        "\n".join(settings),
        "## Licence",
        GEMMA_LICENCE if embedded else f"That of the base model, {base}: see its own card.",
    ]
    if embedded:
        write_text(output.model / "NOTICE", GEMMA_NOTICE)
    text = "\n\n".join(sections)
    write_text(output.model / "README.md", str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n")))


def _messages(system: str | None) -> str:
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": "朝から虹が見えた、いい一日になりそう"})
    return "[\n" + "".join(f"    {json.dumps(message, ensure_ascii=False)},\n" for message in messages) + "]"


def _counts(output: OutputDirectory) -> str:
    paths = {"training": output.train, "validation": output.validation}
    counts = {name: path.read_bytes().count(b"\n") for name, path in paths.items() if path.is_file()}
    return " ".join(f"{count} {name} samples." for name, count in counts.items())


def _metrics(evaluation: "Evaluation") -> str:
    scores, baselines = evaluation.scores, evaluation.baselines
    rates = {
        "exact accuracy": scores.exact_accuracy,
        "exact accuracy, only labels allowed": scores.restricted_exact_accuracy,
        "top-3 accuracy, only labels allowed": scores.restricted_top3_accuracy,
        "group accuracy: the emotion is right": scores.group_accuracy,
        "to compare with: a character n-gram model": baselines.ngram,
        "to compare with: the most frequent label": baselines.most_frequent_label,
    }
    rows = [f"| {name} | {rate} |" for name, rate in rates.items() if rate is not None]
    table = "\n".join(["| metric | value |", "| --- | --- |", *rows, f"| macro-F1 | {scores.macro_f1:.3f} |"])
    return f"{evaluation.replies} replies on the validation split, which chose the epoch, 95 % intervals:\n\n{table}"
