"""One peer of training_speed.py, in a process of its own: reads batches as JSON lines, answers with seconds and loss.

It does not import emojitune's data or scripts, so that another version of TRL can be measured with `uv run --with`.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

IGNORE_INDEX = -100
LORA = LoraConfig(
    r=16, lora_alpha=32, target_modules="all-linear", exclude_modules=r".*(attn|attention).*", task_type="CAUSAL_LM"
)
COMMON = {
    "per_device_train_batch_size": 8,
    "bf16": False,
    "use_cpu": True,
    "optim": "adamw_torch_fused",
    "learning_rate": 5e-4,
    "max_grad_norm": 1.0,
    "dataloader_pin_memory": False,
    "report_to": "none",
    "disable_tqdm": True,
    "seed": 42,
}


def pad(examples: list[dict]) -> dict[str, torch.Tensor]:
    """Right-padded rows, as tutorials collate them."""
    length = max(len(example["input_ids"]) for example in examples)
    columns = {"input_ids": 0, "labels": IGNORE_INDEX, "attention_mask": 0}
    rows = [example | {"attention_mask": [1] * len(example["input_ids"])} for example in examples]
    return {
        name: torch.tensor([row[name] + [fill] * (length - len(row[name])) for row in rows])
        for name, fill in columns.items()
    }


def flatten(examples: list[dict]) -> dict[str, torch.Tensor]:
    """The rows one after the other, with `logits_to_keep` a mask of the positions that predict a label."""
    shifted = [[*example["labels"][1:], IGNORE_INDEX] for example in examples]
    targets = torch.tensor([label for row in shifted for label in row])
    return {
        "input_ids": torch.tensor([[token for example in examples for token in example["input_ids"]]]),
        "position_ids": torch.tensor([[p for example in examples for p in range(len(example["input_ids"]))]]),
        "logits_to_keep": targets != IGNORE_INDEX,
        "shift_labels": targets[targets != IGNORE_INDEX][None],
        "labels": targets[targets != IGNORE_INDEX][None],
    }


def make_trainer(peer: str, folder: str, output: str) -> tuple[Trainer, object]:
    """The trainer of that name, and its collator."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = Dataset.from_list([{"input_ids": [2, 3], "labels": [IGNORE_INDEX, 3], "assistant_masks": [0, 1]}])
    torch.manual_seed(42)
    if peer in ("tutorial", "flattened"):
        arguments = TrainingArguments(output, **COMMON)
        trainer = Trainer(get_peft_model(model, LORA), arguments, train_dataset=rows)
        return trainer, pad if peer == "tutorial" else flatten
    settings = {"max_length": None, "packing": False, "dataset_kwargs": {"skip_prepare_dataset": True}}
    name = "activation_checkpointing" if "activation_checkpointing" in SFTConfig.__dataclass_fields__ else None
    settings |= {name or "gradient_checkpointing": False, "padding_free": peer == "padding_free"}
    kind = SFTTrainer
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if peer == "ours":
        from emojitune.training.trainer import SharedPrefixSFTTrainer

        kind = SharedPrefixSFTTrainer
    config = SFTConfig(output, **COMMON, **settings)
    trainer = kind(model, config, train_dataset=rows, processing_class=tokenizer, peft_config=LORA)
    return trainer, trainer.data_collator


def main() -> None:
    peer, folder = sys.argv[1:]
    answers, sys.stdout = sys.stdout, sys.stderr
    with tempfile.TemporaryDirectory() as output:
        trainer, collate = make_trainer(peer, folder, output)
        trainer.create_optimizer()
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        versions = f"trl {trl.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
        print(json.dumps({"versions": versions}), file=answers, flush=True)
        for line in sys.stdin:
            batch = collate(json.loads(line))
            count = (batch["labels"] != IGNORE_INDEX).sum()
            start = time.perf_counter()
            loss = trainer.training_step(trainer.model, batch, num_items_in_batch=count)
            torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()
            seconds = time.perf_counter() - start
            print(json.dumps({"seconds": seconds, "loss": float(loss)}), file=answers, flush=True)


if __name__ == "__main__":
    main()
