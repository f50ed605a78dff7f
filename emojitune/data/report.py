"""What a dataset can teach and measure, in numbers and in words."""

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from emojitune.dataset import Sample, japanese_share
from emojitune.emotions import LABELS
from emojitune.metrics import half_width

VALIDATION_SHARE = 0.2  # the default of 02

# Below, a sentence of the verdict each. The story behind this project: 10 samples a label (8 after the split) overfit
# from the second epoch on, and 100 a label were the advice.
FEW_SAMPLES_A_LABEL = 20
ENOUGH_SAMPLES_A_LABEL = 100

# With n validation samples a label, one sample more or less right moves its accuracy by 1/n: below ten, by more than
# ten points. The 95 % Wilson interval of 5 right of 10 reaches from 24 % to 76 %.
FEW_VALIDATION_A_LABEL = 10

# Balance: the scarcest label's samples over the commonest's. Below a half, always guessing the common labels begins
# to pay; He and Garcia (2009) call ratios of 1:10 and beyond a real imbalance.
UNEVEN, IMBALANCED = 0.5, 0.1

# A share of kana and kanji below this is not what Japanese tweets look like, even with wwww and brand names in them.
MOSTLY_JAPANESE = 0.5


def describe(samples: Sequence[Sample], token_lengths: Sequence[int]) -> dict[str, Any]:
    """The report on samples: counts, balance, lengths, what a validation split can show, and the verdict."""
    per_label = counts_in_order(sample.label for sample in samples)
    per_turn_label = counts_in_order(label for sample in samples for label in sample.labels)
    validation = round(len(samples) * VALIDATION_SHARE)
    rarest = min(per_label.values())
    rarest_validation = max(1, round(rarest * VALIDATION_SHARE)) if rarest > 1 else 0
    texts = [text for sample in samples for text in sample.texts]
    report: dict[str, Any] = {
        "samples": len(samples),
        "turns": sum(sample.turns for sample in samples),
        "labels": len(per_label),
        "samples_per_label": per_label,
        "turns_per_label": per_turn_label,
        "balance": rarest / max(per_label.values()),
        "conversations_by_turns": dict(sorted(Counter(sample.turns for sample in samples).items())),
        "text_characters": spread([len(text) for text in texts]),
        "conversation_tokens": spread(token_lengths),
        "japanese_share": japanese_share(texts),
        "systems": dict(Counter(sample.system or "" for sample in samples).most_common(5)),
        "expected_split": {
            "train": len(samples) - validation,
            "validation": validation,
            "train_per_label": (len(samples) - validation) / len(per_label),
            "validation_per_label": validation / len(per_label),
        },
        # At an accuracy of one half, where the interval is widest.
        "half_width_of_95_percent_interval": {
            "all_labels": half_width(0.5, validation),
            "rarest_label": half_width(0.5, rarest_validation),
        },
    }
    report["verdict"] = verdict(report)
    return report


def counts_in_order(labels: Any) -> dict[str, int]:
    """Counts of labels: those of the table in `emotions.py` first, in its order."""
    counts = Counter(labels)
    order = [label for label in LABELS if label in counts] + sorted(set(counts) - set(LABELS))
    return {label: counts[label] for label in order}


def spread(values: Sequence[int]) -> dict[str, float]:
    return {
        "least": min(values),
        "median": statistics.median(values),
        "mean": round(statistics.mean(values), 1),
        "most": max(values),
    }


def verdict(report: dict[str, Any]) -> list[str]:
    """What a person should know before training on such a dataset, a sentence each."""
    samples, labels, split = report["samples"], report["labels"], report["expected_split"]
    train, validation = split["train_per_label"], split["validation_per_label"]
    sentences = [
        f"{samples:,} samples for {labels} labels: about {train:.0f} to learn from and {validation:.0f} to measure "
        "with for each."
    ]
    if labels == 1:
        sentences.append("There is one label only, so there is nothing to tell apart.")
    if samples / labels < FEW_SAMPLES_A_LABEL:
        sentences.append(
            f"Expect overfitting after one or two epochs; {ENOUGH_SAMPLES_A_LABEL * labels:,} would do, "
            "or fewer labels (--groups, --labels)."
        )
    elif samples / labels < 0.9 * ENOUGH_SAMPLES_A_LABEL:
        sentences.append(
            f"Overfitting will come later than with ten a label; {ENOUGH_SAMPLES_A_LABEL * labels:,} would be better."
        )
    else:
        sentences.append("That is enough to learn from for several epochs.")
    if validation < FEW_VALIDATION_A_LABEL:
        sentences.append("So few validation samples a label say nothing about single labels, only about all together.")
    if report["balance"] < IMBALANCED:
        sentences.append("The balance is far off: the model will favour the common labels; try --per-label.")
    elif report["balance"] < UNEVEN:
        sentences.append("The labels are uneven; --per-label evens them out.")
    if report["japanese_share"] < MOSTLY_JAPANESE:
        sentences.append(f"Only {report['japanese_share']:.0%} of the characters are Japanese: is this the right file?")
    if set(report["conversations_by_turns"]) == {1}:
        sentences.append(
            "There are single turns only: in a running conversation the model will repeat itself, so chat statelessly."
        )
    return sentences


def as_text(report: dict[str, Any]) -> str:
    """The report for the screen."""
    characters, tokens = report["text_characters"], report["conversation_tokens"]
    widths = report["half_width_of_95_percent_interval"]
    turns = ", ".join(f"{count} of {n}" for n, count in report["conversations_by_turns"].items())
    lines = [
        "",
        f"  samples          {report['samples']:,} ({report['turns']:,} turns; conversations by turns: {turns})",
        f"  labels           {report['labels']}, balance {report['balance']:.2f} (scarcest over commonest)",
        *label_lines(report["samples_per_label"]),
        f"  text             {characters['least']} to {characters['most']} characters, "
        f"median {characters['median']:.0f}",
        f"  conversation     {tokens['least']} to {tokens['most']} tokens, median {tokens['median']:.0f}",
        f"  Japanese         {report['japanese_share']:.0%} of the characters",
        f"  validation       {report['expected_split']['validation']} samples: an accuracy of 50 % would be known to "
        f"±{100 * widths['all_labels']:.0f} points, that of the scarcest label to ±{100 * widths['rarest_label']:.0f}",
        f"  near duplicates  {len(report['near_duplicates'])} pairs",
        "",
        *report["verdict"],
    ]
    return "\n".join(lines)


def label_lines(counts: dict[str, int], a_line: int = 9) -> list[str]:
    cells = [f"{label} {count}" for label, count in counts.items()]
    return ["                   " + "   ".join(cells[start : start + a_line]) for start in range(0, len(cells), a_line)]
