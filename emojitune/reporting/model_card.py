"""The README.md of a fine-tuned model, for whoever gets the folder without this project."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emojitune.artifacts import OutputDirectory, write_text
from emojitune.model.base_model import EMBEDDED_HUB_ID

if TYPE_CHECKING:  # step 3 writes a card as well, and needs no evaluation for it
    from emojitune.evaluation.metrics import Evaluation

GEMMA_NOTICE = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at https://ai.google.dev/gemma/terms\n"
)


def write_model_card(output: OutputDirectory, run: Mapping[str, Any], evaluation: "Evaluation | None" = None) -> None:
    """Write `03_model/README.md` from what run.json holds; with metrics once step 5 has measured them.

    Beside a fine-tuned Gemma stands the NOTICE that its terms demand of whoever passes it on.
    """
    from huggingface_hub import ModelCard, ModelCardData

    name = run["base_model"]["name"]
    embedded, local = name == "embedded", Path(name).is_dir()
    config = json.loads((output.model / "config.json").read_text(encoding="utf-8"))
    gemma = config["model_type"].startswith("gemma3")
    base = EMBEDDED_HUB_ID if embedded else Path(name).name if local else name  # a path means nothing elsewhere
    data = ModelCardData(
        language="ja",
        license="gemma" if gemma else None,
        base_model=None if local else base,
        pipeline_tag="text-generation",
        library_name="transformers",
        tags=["emotion", "trl", "sft"],
    )
    system = [{"role": "system", "content": run["system_prompt"]}] if run["system_prompt"] else []
    messages = [*system, {"role": "user", "content": "朝から虹が見えた、いい一日になりそう"}]
    paths = {"training": output.train, "validation": output.validation}
    card = ModelCard.from_template(
        data,
        template_path=str(Path(__file__).with_name("model_card.md.jinja")),
        base=base,
        gemma=gemma,
        run=run,
        messages=[json.dumps(message, ensure_ascii=False) for message in messages],
        counts={name: path.read_bytes().count(b"\n") for name, path in paths.items()},
        evaluation=evaluation,
        notice=GEMMA_NOTICE,
    )
    write_text(output.model / "README.md", f"{card}\n")
    if gemma:
        write_text(output.model / "NOTICE", GEMMA_NOTICE)
