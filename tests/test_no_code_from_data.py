"""Nothing that a user downloads or is given runs as code."""

import ast
import pickle
import shutil

import pytest
from conftest import ROOT, run_script

SCRIPT = "03_train_model.py"
RUNS_CODE = {"eval", "exec", "compile", "__import__", "pickle", "torch.load", "joblib.load", "yaml.load", "os.system"}


class Trap:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, sprung):
        self.sprung = sprung

    def __reduce__(self):
        return open, (str(self.sprung), "w")


def test_our_code_runs_nothing_that_it_reads():
    for path in [*ROOT.glob("*.py"), *(ROOT / "emojitune").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        called = {
            ast.unparse(node.func)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and "weights_only" not in {keyword.arg for keyword in node.keywords}
        }
        imported = {
            name.name for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) for name in node.names
        }
        assert not RUNS_CODE & (called | imported), path
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "weights_only", "use_safetensors"):
                assert node.value.value is (node.arg != "trust_remote_code"), f"{path}:{node.value.lineno}"


def test_a_pickle_is_no_model(prepared, tiny_model, tmp_path, capsys):
    folder, sprung = tmp_path / "pickled", tmp_path / "sprung"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(sprung)))
    assert run_script(SCRIPT, "--output-dir", prepared, "--model", folder) == 2
    assert "*.safetensors" in capsys.readouterr().err
    assert not sprung.exists()


def test_a_model_with_code_of_its_own_does_not_run_it(prepared, tiny_model, tmp_path, capsys):
    folder, sprung = tmp_path / "coded", tmp_path / "sprung"
    shutil.copytree(tiny_model, folder)
    config = (folder / "config.json").read_text(encoding="utf-8")
    mapping = '{"auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}, "model_type": "own", '
    config = config.replace('"model_type": "gemma3_text",', "", 1)
    (folder / "config.json").write_text(mapping + config.lstrip()[1:], encoding="utf-8")
    (folder / "own.py").write_text(f"open({str(sprung)!r}, 'w')\n", encoding="utf-8")
    assert run_script(SCRIPT, "--output-dir", prepared, "--model", folder) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(folder) in said, said
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_a_checkpoint_with_a_pickle_in_it_runs_nothing(name, prepared, tiny_model, tmp_path, capsys):
    sprung = tmp_path / "sprung"
    flags = ("--epochs", 2, "--keep-checkpoints", "--output-dir", prepared)
    assert run_script(SCRIPT, "--model", tiny_model, *flags) == 0
    folders = sorted((prepared / "03_training/checkpoints").glob("checkpoint-*"), key=lambda path: len(path.name))
    for folder in folders:
        assert (folder / name).exists(), sorted(path.name for path in folder.iterdir())
        (folder / name).write_bytes(pickle.dumps(Trap(sprung)))
    shutil.rmtree(folders[-1])  # as if the run had been killed in its second epoch
    capsys.readouterr()
    status = run_script(SCRIPT, "--resume", "--output-dir", prepared)
    said = capsys.readouterr().err
    assert not sprung.exists()
    if name != "training_args.bin":  # which nobody reads
        assert status == 2 and said.count("\n") == 1 and "checkpoint" in said, said
