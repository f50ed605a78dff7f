"""Nothing that a user downloads or is given runs as code."""

import ast
import pickle
import shutil

import pytest
from conftest import ROOT, run_script

SCRIPT = "03_train_model.py"
RUNS_CODE = {"eval", "exec", "compile", "__import__", "torch.load", "joblib.load", "yaml.load", "os.system"}
RUNS_CODE |= {"pickle", "pickle.load", "pickle.loads", "pickle.Unpickler"}
SAFE = {"trust_remote_code": False, "weights_only": True, "use_safetensors": True}


class Trap(str):
    """The name of a file, as a pickle that makes this file when it is loaded."""

    def __reduce__(self):
        return open, (str(self), "w")


def test_our_code_runs_nothing_that_it_reads():
    for path in [*ROOT.glob("*.py"), *(ROOT / "emojitune").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = set()
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = [node.module] if isinstance(node, ast.ImportFrom) else []
                found = {".".join([*module, name.name]) for name in node.names}
            elif isinstance(node, ast.Call) and "weights_only" not in {keyword.arg for keyword in node.keywords}:
                found = {ast.unparse(node.func)}
            elif isinstance(node, ast.keyword) and node.arg in SAFE:
                assert node.value.value is SAFE[node.arg], f"{path}:{node.value.lineno}"
            elif isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value in SAFE:
                        assert value.value is SAFE[key.value], f"{path}:{node.lineno}"
            assert not RUNS_CODE & found, f"{path}:{node.lineno}"


def pickled(folder, sprung):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(sprung)))


def with_code_of_its_own(folder, sprung):
    config = (folder / "config.json").read_text(encoding="utf-8")
    mapping = '{"auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}, "model_type": "own", '
    config = config.replace('"model_type": "gemma3_text",', "", 1)
    (folder / "config.json").write_text(mapping + config.lstrip()[1:], encoding="utf-8")
    (folder / "own.py").write_text(f"open({str(sprung)!r}, 'w')\n", encoding="utf-8")


@pytest.mark.parametrize(("change", "words"), [(pickled, "*.safetensors"), (with_code_of_its_own, "holds no model")])
def test_a_model_folder_runs_nothing(change, words, prepared, tiny_model, tmp_path, capsys):
    folder, sprung = shutil.copytree(tiny_model, tmp_path / "folder"), tmp_path / "sprung"
    change(folder, sprung)
    assert run_script(SCRIPT, "--output-dir", prepared, "--model", folder) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(folder) in said and words in said, said
    assert not sprung.exists()


def test_a_checkpoint_with_a_pickle_in_it_runs_nothing(prepared, tiny_model, tmp_path, capsys):
    assert run_script(SCRIPT, "--model", tiny_model, "--keep-checkpoints", "--output-dir", prepared) == 0
    (prepared / "03_training/run.json").unlink()  # as if the run had been killed
    [folder] = (prepared / "03_training/checkpoints").glob("checkpoint-*")
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(trap)
        assert run_script(SCRIPT, "--resume", "--output-dir", prepared) == 2
        assert "holds no complete checkpoint" in capsys.readouterr().err
        (folder / name).write_bytes(whole)
    (folder / "training_args.bin").write_bytes(trap)  # which nobody reads
    assert run_script(SCRIPT, "--resume", "--output-dir", prepared) == 0 and not (tmp_path / "sprung").exists()
