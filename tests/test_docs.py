"""What the documents show: commands that exist, links that lead somewhere, figures that were measured."""

import re
import shlex

import pytest
from conftest import ROOT, load, run_script, script

READMES = ("README.md", "README.ja.md")
PAGES = [*(ROOT / name for name in READMES), *sorted((ROOT / "docs").glob("*.md"))]


def commands(text):
    """Every `uv run SCRIPT …` of a page, in code marks or blocks; what a command printed stands in a block of text."""
    text = re.sub(r"^```text\n.*?^```\n", "", text, flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"```\n(.*?)```|`([^`]+)`", text, flags=re.DOTALL):
        for line in "".join(code).replace("\n   ", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:2] == ["uv", "run"] and any(word.endswith(".py") for word in words):
                start = next(index for index, word in enumerate(words) if word.endswith(".py"))
                yield words[start], words[start + 1 :]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_has_a_script_and_its_flags(page, capsys):
    for name, words in commands(page.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file(), name
        if "/" in name:
            continue
        capsys.readouterr()
        assert run_script(name, "--help") == 0
        said = capsys.readouterr().out
        for flag in (word for word in words if word.startswith("--")):
            assert re.search(rf"{flag}(?![\w-])", said), f"{name} has no {flag}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
        other = page.parent / target if target else page
        assert target.startswith("http") or other.exists(), target
        headings = re.findall(r"^#+ (.*)", other.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, anchor


def test_the_tables_are_those_of_the_recorded_run():
    docs = script("benchmarks/update_docs.py")
    for path, parts in docs.documents(load(docs.RESULTS)).items():
        text = path.read_text(encoding="utf-8")
        assert docs.filled(text, parts) == text, f"{path.name} has drifted: uv run benchmarks/update_docs.py"
        assert all(part in text for part in parts.values())


def test_the_readmes_are_short_and_have_one_structure():
    shapes = []
    for name in READMES:
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 110
        shapes.append([re.match(r"#+", line)[0] for line in lines if line.startswith("#")])
    assert shapes[0] == shapes[1]
