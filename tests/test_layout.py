"""Imports go one way; functions and files stay short."""

import ast

import pytest
from conftest import ROOT, SCRIPTS

# Each may import those after it, and itself.
LAYERS = ["reporting", "evaluation", "inference", "training", "model", "data", "cli", "stats", "artifacts"]
PACKAGE = sorted((ROOT / "emojitune").rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: path.name)
def test_imports_go_one_way(path):
    layer = path.relative_to(ROOT / "emojitune").parts[0].removesuffix(".py")
    for name in imports(path):
        if name.startswith("emojitune.") and layer != "__init__":
            other = name.split(".")[1]
            assert LAYERS.index(other) >= LAYERS.index(layer), f"{layer} imports {name}"
            assert other != "training" or layer == "training"  # the others get what it wrote as files
        assert layer != "data" or not name.startswith("torch")


@pytest.mark.parametrize("path", [*PACKAGE, *map(ROOT.joinpath, SCRIPTS)], ids=lambda path: path.name)
def test_functions_and_files_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name != "parse_arguments":
            length = node.end_lineno - node.lineno + 1
            assert length <= (90 if node.name == "main" else 60), f"{node.name} has {length} lines"


def test_the_package_does_not_grow():
    """Lower the bound with each piece that goes."""
    assert sum(path.read_text(encoding="utf-8").count("\n") for path in PACKAGE) <= 3828
