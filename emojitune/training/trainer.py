"""TRL's trainer with logits only where there are labels, and each common prefix computed once."""

import warnings
from typing import Any

import torch
from torch.nn import functional
from transformers import EvalPrediction
from trl import SFTTrainer

from emojitune.model.loading import release_memory, stop_token_ids
from emojitune.model.prefix_tree import model_inputs, prefix_tree, supports_prefix_tree
from emojitune.training.tokenization import IGNORE_INDEX

# TRL 1.16 asks transformers for gradient checkpointing by its old name; the user can do nothing about it.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)

SAMPLES_BEFORE_TRAINING = 100
LARGE_BATCH = 56  # tokens per sample: a tweet has 45 in the mean; a token takes 2 MB of activations in Gemma 3 270M


class SharedPrefixSFTTrainer(SFTTrainer):
    """TRL's SFTTrainer with the output layer applied only where a token is supervised, and common prefixes merged.

    Where there is no Triton, TRL 1.16 computes log-probabilities of all 262,144 tokens at every position. Losses and
    gradients stay the same, and LoRA, full fine-tuning, gradient checkpointing and DDP work as in TRL. Evaluation adds
    the answer loss (per answer, without its end of turn) and exact accuracy."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, compute_metrics=_metrics_from_sums, **kwargs)
        # The surer the model, the more of 262,144 probabilities are below 1e-38, and so are their gradients. A CPU
        # multiplies such denormal numbers so slowly that a step took 1.6 times as long.
        torch.set_flush_denormal(True)
        self._stop_tokens = torch.tensor(stop_token_ids(self.processing_class), device=self.args.device)
        self._answer_sums = torch.zeros(2, device=self.args.device)  # of the answers since the last log: loss, number
        # The samples are tokenized already; Gemma's tokenizer holds 0.5 GB, and each checkpoint would copy it.
        self.processing_class = self._tokenizer = self.callback_handler.processing_class = None

    def _token_losses(self, model, inputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of each supervised token: its loss, whether it was the likeliest, whether it ends a turn, and the sample it
        belongs to; all (supervised,).

        The right-padded batch (`input_ids`, `labels`, each (batch, length)) becomes one row: a prefix tree where the
        model takes one, else the samples one after the other. A sample ends with the token that predicts its last
        label.
        """
        labels = inputs["labels"][:, 1:]  # what the token at each position is to predict
        example, position = (labels != IGNORE_INDEX).nonzero(as_tuple=True)
        places = list(zip(example.tolist(), position.tolist(), strict=True))
        last = dict(places)
        sequences = [ids[: last[index] + 1] for index, ids in enumerate(inputs["input_ids"].tolist())]
        tree = prefix_tree(sequences, merge=supports_prefix_tree(self.model))
        nodes = torch.tensor([tree.paths[index][place] for index, place in places], device=labels.device)
        logits = model(**model_inputs(self.model, tree), use_cache=False, logits_to_keep=nodes).logits[0].float()
        target = labels[example, position]
        losses = functional.cross_entropy(logits, target, reduction="none")
        return losses, logits.detach().argmax(-1) == target, torch.isin(target, self._stop_tokens), example

    def _halves(self, inputs, batch_size: int) -> list[dict[str, torch.Tensor]]:
        """The halves of a large batch: they need half the memory, and less attention, which all tokens of a row share.
        Empty on a GPU, where a half takes as long as the whole, and beside other ranks, which would wait."""
        tokens = inputs["attention_mask"]
        small = len(tokens) == 1 or tokens.sum() <= LARGE_BATCH * batch_size
        if small or not self.args.use_cpu or self.args.world_size > 1:
            return []
        return [{name: tensor.tensor_split(2)[half] for name, tensor in inputs.items()} for half in (0, 1)]

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """A large batch goes in halves: their gradients add up."""
        if halves := self._halves(inputs, self.args.per_device_train_batch_size):
            return sum(self.training_step(model, half, num_items_in_batch) for half in halves)
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> torch.Tensor:
        """The mean loss of supervised tokens; `num_items_in_batch` counts them over accumulated batches and ranks."""
        losses, _, ends, _ = self._token_losses(model, inputs)
        self._answer_sums += torch.stack([losses.detach()[~ends].sum(), ends.sum().float()])
        if num_items_in_batch is None:
            return losses.mean()
        # DDP averages over ranks what was divided by the tokens of all ranks.
        return losses.sum() / num_items_in_batch * self.accelerator.num_processes

    @torch.no_grad()
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None) -> tuple[None, torch.Tensor, Any]:
        """Sums per sample, (batch, 5): loss, tokens, answer loss, right turns, turns.

        A turn is right when each of its tokens is the likeliest given those before: what greedy decoding would give.
        """
        if halves := self._halves(inputs, self.args.per_device_eval_batch_size):
            sums = torch.cat([self.prediction_step(model, half, prediction_loss_only)[1] for half in halves])
            return None, sums, torch.zeros(len(sums), device=sums.device)
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            losses, right, ends, example = self._token_losses(model, inputs)
        turn = ends.int().cumsum(0) - ends.int()  # of each supervised token: how many turns ended before it
        wrong = torch.zeros(len(ends), device=ends.device).index_add_(0, turn, (~right).float())
        right_end = ends & (wrong[turn] == 0)
        columns = [losses, torch.ones_like(losses), losses * ~ends, right_end, ends]
        rows = torch.stack([column.float() for column in columns], dim=1)
        sums = torch.zeros(len(inputs["input_ids"]), 5, device=ends.device).index_add_(0, example, rows)
        return None, sums, torch.zeros(len(sums), device=sums.device)

    def evaluate(self, eval_dataset: Any = None, **kwargs: Any) -> dict[str, float]:
        """Before the first step, 100 samples are enough: the base model's loss is far from any that follow."""
        count = len(self.eval_dataset)
        if self.state.global_step == 0 and count > SAMPLES_BEFORE_TRAINING:
            spread = [n * count // SAMPLES_BEFORE_TRAINING for n in range(SAMPLES_BEFORE_TRAINING)]
            eval_dataset = self.eval_dataset.select(spread)
        metrics = super().evaluate(eval_dataset, **kwargs)
        release_memory()  # its batches are larger than training's
        return metrics

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """No warmup in a run of a few steps: its first step has a rate of 0, and may be the only one."""
        if self.args.warmup_steps * num_training_steps < 1:
            self.args.warmup_steps = 0
        return super().create_scheduler(num_training_steps, optimizer)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the answer loss of the batches since the last log."""
        if "loss" in logs:
            loss, answers = self.accelerator.reduce(self._answer_sums, reduction="sum").tolist()
            logs["answer_loss"] = loss / answers
            self._answer_sums.zero_()
        super().log(logs, start_time)


def _metrics_from_sums(prediction: EvalPrediction) -> dict[str, float]:
    loss, tokens, answer, right, turns = prediction.predictions.sum(0, dtype="float64")
    return {"loss": loss / tokens, "answer_loss": answer / turns, "exact_accuracy": right / turns}
