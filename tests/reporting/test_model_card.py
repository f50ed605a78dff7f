"""The model card: what it claims, and that its code runs."""

import re
import shutil

import pytest
from fakes import RUN, results
from huggingface_hub import ModelCard

from emojitune.artifacts import OutputDirectory, write_json
from emojitune.reporting.model_card import write_model_card

OTHER = RUN | {"base_model": {"name": "someone/model"}, "system_prompt": None}
TERMS = "Terms of Use found at https://ai.google.dev/gemma/terms"


@pytest.fixture
def output(tmp_path, tiny_model):
    found = OutputDirectory(tmp_path)
    shutil.copytree(tiny_model, found.model)
    found.train.parent.mkdir()
    found.train.write_text("{}\n{}\n")
    found.validation.write_text("{}\n")
    return found


def card_of(output, *what):
    write_model_card(output, *what)
    return ModelCard.load(output.model / "README.md")


def test_a_card_names_licence_data_and_settings_and_nothing_of_this_project(output):
    card = card_of(output, RUN)
    assert (card.data.license, card.data.base_model, card.data.language) == ("gemma", "google/gemma-3-270m", "ja")
    assert all(part in card.text for part in (TERMS, "2 training samples", "- method: lora\n", "Not measured"))
    assert not re.search("emojitune|uv run|outputs", card.text)
    assert TERMS in (output.model / "NOTICE").read_text(encoding="utf-8")


def test_metrics_come_with_intervals_and_another_base_model_with_its_own_licence(output):
    write_json(output.model / "config.json", {"model_type": "llama"})
    card = card_of(output, OTHER, results()["finetuned"])
    assert "| exact accuracy | 72.0% (66–77) |" in card.text and '"role": "system"' not in card.text
    assert card.data.base_model == "someone/model" and card.data.license is None and "Gemma" not in card.text
    assert not (output.model / "NOTICE").exists()
    assert str(output.root) not in str(card_of(output, OTHER | {"base_model": {"name": str(output.model)}}))


def test_the_code_of_the_card_runs_in_the_folder_of_the_model(output, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", card_of(output, RUN).text, re.DOTALL)[1]
    assert RUN["system_prompt"] in code and code.count("\n") <= 15
    monkeypatch.chdir(output.model)
    exec(code, {})
    assert capsys.readouterr().out
