"""An evaluation by hand, one conversation at a time."""

import torch

from emojitune.training.tokenization import IGNORE_INDEX


def slow_evaluation(model, tokenizer, rows) -> tuple[list[float], list[float], list[bool]]:
    """The loss of each supervised token, of each but the ends of turns, and for each turn whether it is right."""
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    losses, answer_losses, turns = [], [], []
    for row in rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        turn_right = True
        for position, label in enumerate(row["labels"]):
            if label == IGNORE_INDEX:
                continue
            losses.append(-logits[position - 1, label].item())
            turn_right &= logits[position - 1].argmax().item() == label
            if label == end:
                turns.append(turn_right)
                turn_right = True
            else:
                answer_losses.append(losses[-1])
    return losses, answer_losses, turns
