"""The trainer: TRL's, with logits only where there are labels, and each common beginning computed once."""

import contextlib
import json
import math
import random
import shutil
import signal
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from peft import PeftModel
from torch.distributed.tensor import DTensor
from torch.nn import functional
from tqdm import tqdm
from transformers import EvalPrediction, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTTrainer

from emojitune.artifacts import (
    OutputDirectory,
    UserError,
    replacing_folder,
)
from emojitune.emotions import LABELS
from emojitune.frozen import widen
from emojitune.model import give_back_memory, peak_memory, quiet_transformers
from emojitune.prefix_tree import logits_only_at, prefix_tree

# TRL 1.16 asks transformers for gradient checkpointing by its old name; the user can do nothing about it.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)

IGNORED = -100  # the label of a token that carries no loss, in PyTorch's cross entropy and in TRL

# Tokens that go through the model at once on a CPU: each holds some 2 MB until the backward pass, and a part costs the
# time that it takes to read the output layer once more. With 400, training on the shipped data took 2.50 GB.
PART_TOKENS = 352

# A prefix tree must agree with plain rows to this relative difference in loss, or it is not used: a model may
# ignore the mask or the positions that we give it. fp32 rounding alone stays below 1e-5, bf16's below 2e-2.
_SAME_LOSS = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


# ---- a batch for the model ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelledBatch:
    """Model inputs, and for each labelled token, sample by sample: where the hidden state is that predicts it
    (`row`, `column`), what it is (`target`), and whose (`owner`, the sample's index). All four are (labelled tokens,).
    """

    inputs: dict[str, torch.Tensor]
    row: torch.Tensor
    column: torch.Tensor
    target: torch.Tensor
    owner: torch.Tensor


def as_tree(batch: dict[str, torch.Tensor], dtype: torch.dtype) -> LabelledBatch:
    """A right-padded batch (`input_ids`, `attention_mask`, `labels`, each (batch, length)) as one prefix tree."""
    device = batch["input_ids"].device
    lengths = batch["attention_mask"].sum(1).tolist()
    sequences = [ids[:length] for ids, length in zip(batch["input_ids"].tolist(), lengths, strict=True)]
    tree = prefix_tree(sequences)
    labelled = [
        (path[place - 1], label, owner)
        for owner, (path, labels) in enumerate(zip(tree.paths, batch["labels"].tolist(), strict=True))
        for place, label in enumerate(labels[: len(path)])
        if place and label != IGNORED
    ]
    column, target, owner = torch.tensor(labelled, device=device).reshape(-1, 3).unbind(1)
    return LabelledBatch(tree.model_inputs(device, dtype), torch.zeros_like(column), column, target, owner)


def as_rows(batch: dict[str, torch.Tensor]) -> LabelledBatch:
    """The same in the plain way: a padded row a sample."""
    row, place = (batch["labels"][:, 1:] != IGNORED).nonzero(as_tuple=True)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return LabelledBatch(inputs, row, place, batch["labels"][row, place + 1], row)


def _parts(batch: dict[str, torch.Tensor], tokens: int) -> Iterator[dict[str, torch.Tensor]]:
    """The samples of a right-padded batch in parts of at most `tokens` tokens, or of one sample."""
    lengths = batch["attention_mask"].sum(1).tolist()
    start, held = 0, 0
    for end, length in enumerate(lengths):
        if end > start and held + length > tokens:
            yield {name: rows[start:end] for name, rows in batch.items()}
            start, held = end, 0
        held += length
    yield {name: rows[start:] for name, rows in batch.items()}


# ---- the trainer ---------------------------------------------------------------------------------------------------


class LabelLogitsTrainer(SFTTrainer):
    """TRL's SFTTrainer with logits only at the positions that predict a label, and each common beginning once.

    Gemma's vocabulary has 262,144 words. On a CPU, stock TRL computes their log-probabilities for every token, labelled
    or not, and spends most of its time there. Here the output layer sees only the hidden states that predict a label;
    losses and gradients stay the same. The model is called as ever, so that LoRA, full fine-tuning, gradient
    checkpointing, DDP and FSDP work as in TRL. Evaluation adds the label loss (the loss without the tokens that only
    end a turn) and the exact accuracy. `end_tokens` end a turn; `products` is what frozen weights are multiplied in.
    """

    def __init__(
        self, *args: Any, end_tokens: Sequence[int], products: torch.dtype = torch.float32, **kwargs: Any
    ) -> None:
        super().__init__(*args, compute_metrics=_metrics_from_sums, **kwargs)
        self._end_tokens = torch.tensor(list(end_tokens))
        self._products = products
        self._tree_agrees: bool | None = None
        self._label_loss = _RunningMean()

    def _token_losses(self, model: torch.nn.Module, batch: LabelledBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each labelled token, and whether it was the likeliest; both (labelled tokens,)."""
        with logits_only_at(self.model, batch.row, batch.column):
            logits = model(**batch.inputs, use_cache=False).logits.float()
        losses = functional.cross_entropy(logits, batch.target, reduction="none")
        return losses, logits.detach().argmax(-1) == batch.target

    @property
    def _compute_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.args.bf16 else torch.float32

    def _arranged(self, inputs: dict[str, torch.Tensor]) -> LabelledBatch:
        window = getattr(self.model.config.get_text_config(), "sliding_window", None)
        if window and inputs["input_ids"].shape[1] > window:
            return as_rows(inputs)  # one mask would not do for layers that see less far
        if self._tree_agrees is None:
            self._tree_agrees = self._compare_arrangements(inputs)
        return as_tree(inputs, self._compute_dtype) if self._tree_agrees else as_rows(inputs)

    @torch.no_grad()
    def _compare_arrangements(self, inputs: dict[str, torch.Tensor]) -> bool:
        """Whether this model gives a prefix tree the losses of plain rows; asked once, of the first batch."""
        with self.compute_loss_context_manager():
            plain, _ = self._token_losses(self.model, as_rows(inputs))
            try:
                shared, _ = self._token_losses(self.model, as_tree(inputs, self._compute_dtype))
            except (ValueError, RuntimeError, TypeError):
                return False
        tolerance = _SAME_LOSS[torch.bfloat16 if self.args.bf16 else self._products]
        return bool((shared.sum() - plain.sum()).abs() <= tolerance * plain.sum().abs())

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """One forward and backward pass; on a CPU in parts of few tokens, whose gradients add up to the batch's."""
        parts = [inputs] if num_items_in_batch is None else self._in_parts(inputs)
        losses = [super(LabelLogitsTrainer, self).training_step(model, part, num_items_in_batch) for part in parts]
        return torch.stack(losses).sum()

    def _in_parts(self, inputs: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        # Several processes must call the model equally often, and GPUs are quick with large batches.
        whole = self.accelerator.num_processes > 1 or not self.args.use_cpu
        return [inputs] if whole else list(_parts(inputs, PART_TOKENS))

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The mean loss over labelled tokens; `num_items_in_batch` counts them over accumulated batches and ranks."""
        batch = self._arranged(inputs)
        losses, _ = self._token_losses(model, batch)
        count = len(losses) if num_items_in_batch is None else num_items_in_batch
        loss = losses.sum() / torch.as_tensor(count, device=losses.device).clamp(min=1)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # DDP averages over ranks what was divided by all tokens
        self._label_loss.add(losses.detach()[self._is_label(batch.target)])
        self._total_train_tokens += int(inputs["attention_mask"].sum()) * self.accelerator.num_processes
        return loss

    def forget_tokenizer(self) -> None:
        """Let go of the tokenizer once all is tokenized: Gemma's holds 0.5 GB, and each checkpoint would copy it."""
        self.processing_class = self._tokenizer = self.callback_handler.processing_class = None

    @property
    def tokens_trained(self) -> int:
        return int(self._total_train_tokens)

    def _is_label(self, targets: torch.Tensor) -> torch.Tensor:
        return ~torch.isin(targets, self._end_tokens.to(targets.device))

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, torch.Tensor, torch.Tensor]:
        """Sums for each sample, (batch, 6): loss, tokens, label loss, label tokens, right turns, turns.

        A turn is right when each of its tokens is the likeliest given those before: what greedy generation would give.
        """
        parts = self._in_parts(self._prepare_inputs(inputs))
        sums = torch.cat([self._sums(model, part) for part in parts])
        return None, sums, torch.zeros(len(sums), device=sums.device)

    @torch.no_grad()
    def _sums(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        with self.compute_loss_context_manager():
            batch = self._arranged(inputs)
            losses, right = self._token_losses(model, batch)
        label = self._is_label(batch.target)
        ends = ~label
        turn = ends.cumsum(0) - ends.int()  # of each labelled token: how many turns ended before it
        wrong = torch.zeros(int(ends.sum()) + 1, device=label.device).index_add_(0, turn, (~right).float())
        right_end = ends & (wrong[turn] == 0)
        columns = [losses, torch.ones_like(losses), losses * label, label, right_end, ends]
        columns = torch.stack([column.float() for column in columns], dim=1)
        return torch.zeros(len(inputs["input_ids"]), 6, device=label.device).index_add_(0, batch.owner, columns)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        metrics = super().evaluate(*args, **kwargs)
        give_back_memory()  # its batches are of other sizes than training's, which would be laid out beside them
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs["label_loss"] = self._label_loss.take(self.accelerator)
        super().log(logs, start_time)


class _RunningMean:
    """The mean over all ranks of what was added since it was last taken."""

    def __init__(self) -> None:
        self.total = self.count = 0.0

    def add(self, values: torch.Tensor) -> None:
        self.total += values.sum().item()
        self.count += len(values)

    def take(self, accelerator: Any) -> float:
        sums = accelerator.reduce(torch.tensor([self.total, self.count], device=accelerator.device), reduction="sum")
        self.total = self.count = 0.0
        return (sums[0] / sums[1].clamp(min=1)).item()


def _metrics_from_sums(prediction: EvalPrediction) -> dict[str, float]:
    loss, tokens, label_loss, label_tokens, right, turns = np.asarray(prediction.predictions, dtype=np.float64).sum(0)
    return {
        "loss": float(loss / max(1, tokens)),
        "label_loss": float(label_loss / max(1, label_tokens)),
        "exact_accuracy": float(right / max(1, turns)),
    }


# ---- what is written and shown while it trains ---------------------------------------------------------------------

# The trainer's names for what it logs, and ours.
_HISTORY_NAMES = {
    "loss": "training_loss",
    "label_loss": "training_label_loss",
    "learning_rate": "learning_rate",
    "grad_norm": "gradient_norm",
    "eval_loss": "validation_loss",
    "eval_label_loss": "validation_label_loss",
    "eval_exact_accuracy": "validation_exact_accuracy",
}


class LossHistory(TrainerCallback):
    """Append what the trainer logs to a JSONL file, flushed each time: a killed run can still be plotted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict | None = None, **_: Any
    ) -> None:
        values = {ours: float(logs[theirs]) for theirs, ours in _HISTORY_NAMES.items() if theirs in (logs or {})}
        if not state.is_world_process_zero or not values.keys() & {"training_loss", "validation_loss"}:
            return
        # JSON has no NaN: null says that the value was not a number.
        values = {name: value if np.isfinite(value) else None for name, value in values.items()}
        row = {"step": state.global_step, "epoch": round(state.epoch or 0.0, 4), **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


class ProgressBar(TrainerCallback):
    """One bar for the whole run: steps, remaining time, the last losses."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.shown: dict[str, str] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict | None = None, **_: Any
    ) -> None:
        if not self.bar or not logs:
            return
        if "loss" in logs:
            self.shown["loss"] = f"{float(logs['loss']):.3f}"
        if "eval_label_loss" in logs:
            self.shown["validation"] = f"{float(logs['eval_label_loss']):.3f}"
            self.bar.write(
                f"epoch {state.epoch or 0:.0f}: validation loss {float(logs['eval_loss']):.3f}, "
                f"of the labels {float(logs['eval_label_loss']):.3f}, "
                f"exact accuracy {float(logs['eval_exact_accuracy']):.1%}"
            )
        self.bar.set_postfix(self.shown)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar:
            self.bar.close()
            self.bar = None


class StopOnDivergence(TrainerCallback):
    """Stop when the loss is no number any more, or has exploded: the epochs to come cannot mend the weights."""

    # A model that knows nothing about its 262,144 words has a loss of ln(262,144) = 12.5; the base model, which was
    # never taught to end a turn, starts at about 24. Four times the former is beyond both.
    EXPLODED = 50.0

    def __init__(self) -> None:
        self.diverged = False

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict | None = None, **_: Any
    ) -> None:
        losses = [float(logs[name]) for name in ("loss", "eval_loss") if name in (logs or {})]
        if any(not np.isfinite(loss) or loss > self.EXPLODED for loss in losses):
            self.diverged = True
            control.should_training_stop = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.diverged:
            control.should_evaluate = control.should_save = False


class StopOnSignal(TrainerCallback):
    """Let Ctrl+C or SIGTERM end the run after the step under way, with a checkpoint to resume from."""

    def __init__(self) -> None:
        self.asked = False
        self.status = 0

    def on_signals(self) -> None:
        """From now on, hear the signals."""
        for received in (signal.SIGINT, signal.SIGTERM):
            signal.signal(received, self._ask)

    def _ask(self, received: int, frame: object) -> None:
        self.asked = True
        self.status = 128 + received

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.asked:
            control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # Asked in mid-epoch: an evaluation now would keep the user waiting and is not the epoch's.
        if self.asked and (state.epoch or 0) % 1:
            control.should_evaluate = control.should_save = False


# ---- before it trains ----------------------------------------------------------------------------------------------


def check_supervision(
    rows: Sequence[dict[str, list[int]]], tokenizer: Any, stop_tokens: Sequence[int], max_length: int
) -> None:
    """Raise UserError unless every tokenized sample starts with the one <bos> and each reply carries loss with its end.

    `rows` hold `input_ids` and `labels`. A wrong chat template trains a model that never stops, with a healthy loss.
    """
    for number, row in enumerate(rows, 1):
        labels = [label for label in row["labels"] if label != IGNORED]
        if not labels:
            raise UserError(f"training sample {number} has no token that carries loss; raise --max-length")
        if not set(labels) & set(stop_tokens) or row["labels"][-2:] == [IGNORED, IGNORED]:
            if len(row["input_ids"]) >= max_length:
                raise UserError(
                    f"training sample {number} is longer than {max_length} tokens, and its last reply would be cut; "
                    "raise --max-length"
                )
            raise UserError(
                f"training sample {number} does not learn to stop: the end of its turn carries no loss; "
                "choose a Gemma model, or mend the template's generation marks"
            )
        if tokenizer.bos_token_id is not None and row["input_ids"].count(tokenizer.bos_token_id) > 1:
            raise UserError(f"training sample {number} starts with two <bos>; mend the chat template")


def marked(row: dict[str, list[int]], tokenizer: Any) -> str:
    """A tokenized sample as text, with the runs of tokens that carry loss in 【 】."""
    text, inside = "", False
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        if (label != IGNORED) != inside:
            inside = not inside
            text += "【" if inside else "】"
        text += tokenizer.decode([token])
    return (text + ("】" if inside else "")).replace("\n", "⏎")


def without_some_systems(rows: Sequence[dict[str, Any]], share: float, seed: int) -> list[list[dict[str, str]]]:
    """The messages of each row; a share of the rows, chosen by the seed, lose their system prompt."""
    chosen = set(random.Random(seed).sample(range(len(rows)), round(share * len(rows))))
    return [
        [message for message in row["messages"] if not (index in chosen and message["role"] == "system")]
        for index, row in enumerate(rows)
    ]


def later_turns_alone(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each turn of a conversation after its first, as a conversation of its own with the same system prompt."""
    alone = []
    for row in rows:
        head = [message for message in row["messages"] if message["role"] == "system"]
        turns = row["messages"][len(head) :]
        alone += [{"messages": [*head, *turns[place : place + 2]]} for place in range(2, len(turns), 2)]
    return alone


def system_prompt_of(rows: Sequence[dict[str, Any]]) -> str | None:
    """The system prompt that most of the rows have."""
    prompts = Counter(row["messages"][0]["content"] for row in rows if row["messages"][0]["role"] == "system")
    return prompts.most_common(1)[0][0] if prompts else None


def labels_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Every label in the rows, those of the table in `emotions.py` first and in its order."""
    found = {message["content"] for row in rows for message in row["messages"] if message["role"] == "assistant"}
    return [label for label in LABELS if label in found] + sorted(found - set(LABELS))


def steps_an_epoch(samples: int, batch_size: int) -> int:
    return math.ceil(samples / batch_size)


# ---- dry run -------------------------------------------------------------------------------------------------------

DRY_RUN_STEPS = 6  # the first is slower: memory is laid out and the two arrangements are compared


def foretell(trainer: "LabelLogitsTrainer", steps: int, epochs: int, full: bool, output: OutputDirectory) -> str:
    """Train a few steps; what time, memory and disk the run would take, in words."""
    stamps: list[float] = []

    class Stamp(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            stamps.append(time.perf_counter())

    trainer.add_callback(Stamp())
    trainer.train()
    step = (stamps[-1] - stamps[0]) / (len(stamps) - 1)
    # Evaluation has no backward pass: about a third of a training step for as many samples.
    evaluation = step / 3 * len(trainer.eval_dataset) / trainer.args.train_batch_size
    weights = trainer.model.num_parameters() * 4
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad) * 4
    # A checkpoint: the weights that it holds, and the optimizer's two averages of those that are trained.
    disk = weights + 3 * ((weights if full else trained) + 2 * trained)
    free = shutil.disk_usage(output.root).free
    return (
        f"Dry run: {step:.2f} s a step, so about {(steps * step + (epochs + 1) * evaluation) / 60:.1f} minutes for "
        f"{steps} steps and {epochs + 1} evaluations; {peak_memory() / 1e9:.1f} GB of memory at the peak; "
        f"{disk / 1e9:.1f} GB of disk while training ({free / 1e9:.0f} GB free), {weights / 1e9:.1f} GB after"
    )


# ---- after it trained ----------------------------------------------------------------------------------------------


def finished_epochs(state: TrainerState) -> list[dict[str, Any]]:
    """Validation loss, label loss and exact accuracy of each epoch that ended in numbers."""
    return [
        {
            "epoch": round(row["epoch"]),
            "validation_loss": row["eval_loss"],
            "label_loss": row["eval_label_loss"],
            "exact_accuracy": row["eval_exact_accuracy"],
        }
        for row in state.log_history
        if "eval_label_loss" in row and row["epoch"] > 0 and math.isfinite(row["eval_loss"])
    ]


def _gather_shards(model: torch.nn.Module) -> None:
    """FSDP leaves each process a shard of every weight: put the whole weights back, in every process."""
    whole: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if isinstance(weight, DTensor):
                if weight not in whole:  # input and output embeddings may be one
                    whole[weight] = torch.nn.Parameter(weight.full_tensor().cpu(), weight.requires_grad)
                module.register_parameter(name, whole[weight])


def save_model(
    trainer: "LabelLogitsTrainer", tokenizer_files: Path, stops: Sequence[int], output: OutputDirectory
) -> None:
    """Write the trained weights as a plain model into `03_model/`, and LoRA's adapter; call it in every process.

    `tokenizer_files` is a folder that holds the saved tokenizer, `stops` the tokens that end a reply.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    trainer.optimizer = trainer.lr_scheduler = None
    model.zero_grad()
    give_back_memory()  # of the last batch, before the weights take twice as much
    _gather_shards(model)
    widen(model)
    writes = trainer.is_world_process_zero()
    if isinstance(model, PeftModel):
        if writes:
            with replacing_folder(output.adapter) as folder:
                model.save_pretrained(folder)
        model = model.merge_and_unload()
    if not writes:
        return
    model.config.use_cache = True
    model.generation_config.eos_token_id = list(stops)
    model.generation_config.do_sample = False  # an instruct model's file says otherwise; emojis are not a lottery
    model.generation_config.top_k = model.generation_config.top_p = None
    with replacing_folder(output.model) as folder, quiet_transformers():
        model.save_pretrained(folder)
        shutil.copytree(tokenizer_files, folder, dirs_exist_ok=True)


def package_versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers", "peft", "trl", "datasets", "accelerate")}


@contextlib.contextmanager
def quiet_datasets() -> Iterator[None]:
    """Keep the bars of tokenizing off the screen: it takes a moment."""
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


class Stopwatch:
    """Wall time in seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start
