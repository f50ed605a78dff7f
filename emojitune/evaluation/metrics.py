"""What predictions are worth: scores, slices, the comparison of two models."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from emojitune.data.emojis import are_emojis, emojis_in, emotion_group, is_single_emoji
from emojitune.evaluation.predictions import Prediction
from emojitune.stats import Rate, rate_of, rate_of_count

PROBABILITY_FLOOR = 1e-9  # for log-loss, so that one sample held for impossible does not dominate
MAX_SLICES = 30  # a field with more values is a text or an id


@dataclass(frozen=True)
class UnseenEmoji:
    """An emoji that is no label in training: how often it was answered, its group, how often that was right."""

    emoji: str
    count: int
    group: str | None
    right_group: int


@dataclass(frozen=True)
class Scores:
    """Of free replies: as a whole for exact accuracy and macro-F1, by their first emoji for groups and unseen emojis;
    then of replies restricted to the labels. What only emojis have is None for labels that are words."""

    exact_accuracy: Rate
    group_accuracy: Rate | None
    macro_f1: float
    format_rate: Rate | None  # exactly one emoji
    unseen_emoji_rate: Rate | None
    unseen_emojis: list[UnseenEmoji]  # most frequent first
    restricted_exact_accuracy: Rate
    restricted_top3_accuracy: Rate | None  # None where there are no more than three labels
    restricted_group_accuracy: Rate | None
    restricted_macro_f1: float
    log_loss: float  # nats
    calibration_error: float  # expected calibration error, 10 bins


@dataclass(frozen=True)
class SliceScore:
    """The predictions whose sample has `value` in `field`."""

    field: str
    value: str
    exact_accuracy: Rate
    restricted_exact_accuracy: Rate
    group_accuracy: Rate | None


@dataclass(frozen=True)
class TurnScore:
    """One turn of running conversations; repeat rate: how often the reply is that of the turn before."""

    turn: int
    exact_accuracy: Rate
    repeat_rate: Rate | None  # None at turn 1
    alone: Rate  # exact accuracy on those of the same texts that have no history in the data


@dataclass(frozen=True)
class PromptScore:
    """The same samples with the system prompt of the training, with none, or with a reworded one: the `name`."""

    name: str
    system: str | None
    exact_accuracy: Rate
    format_rate: Rate | None
    restricted_exact_accuracy: Rate


@dataclass(frozen=True)
class Baselines:
    """What needs no language model: guessing, the most frequent training label, a character n-gram model."""

    chance: float
    most_frequent_label: Rate
    ngram: Rate


@dataclass(frozen=True)
class Comparison:
    """McNemar's exact p-value of another model against the fine-tuned one, on so many replies to the same prompts."""

    mcnemar_p: float
    samples: int


@dataclass(frozen=True)
class Evaluation:
    """All that step 5 finds out about one model."""

    model: str
    weights: str  # SHA-256
    samples: int
    replies: int  # one per turn
    scores: Scores
    slices: list[SliceScore]  # field by field, worst first
    conversations: dict[str, list[TurnScore]]  # "own": multi-turn samples, "strung": unrelated texts; {} when left out
    system_prompts: list[PromptScore]  # [] when left out
    baselines: Baselines
    against_base: Comparison | None
    against_ngram: Comparison | None


def score(predictions: Sequence[Prediction], labels: Sequence[str]) -> Scores:
    """The scores of predictions; `labels` are those of the training split."""
    truth = [p.label for p in predictions]
    replies = [p.reply for p in predictions]
    choices = [p.choice for p in predictions]
    right = [p.choice == p.label for p in predictions]
    of_label = np.array([p.probabilities[p.label] for p in predictions])
    first = [next(iter(emojis_in(reply)), "") for reply in replies]
    in_group = list(map(_same_group, first, truth))
    unseen = Counter(emoji for emoji in first if emoji not in ("", *labels))
    right_group = Counter(emoji for emoji, is_right in zip(first, in_group, strict=True) if is_right)
    emojis = are_emojis(labels)
    return Scores(
        exact_accuracy=rate_of([p.reply == p.label for p in predictions]),
        group_accuracy=rate_of(in_group) if emojis else None,
        macro_f1=macro_f1(truth, replies),
        format_rate=rate_of([is_single_emoji(reply) for reply in replies]) if emojis else None,
        unseen_emoji_rate=rate_of_count(unseen.total(), len(replies)) if emojis else None,
        unseen_emojis=[UnseenEmoji(e, n, emotion_group(e), right_group[e]) for e, n in unseen.most_common() if emojis],
        restricted_exact_accuracy=rate_of(right),
        restricted_top3_accuracy=rate_of([p.label in p.ranked[:3] for p in predictions]) if len(labels) > 3 else None,
        restricted_group_accuracy=rate_of(list(map(_same_group, choices, truth))) if emojis else None,
        restricted_macro_f1=macro_f1(truth, choices),
        log_loss=float(-np.log(np.maximum(of_label, PROBABILITY_FLOOR)).mean()),
        calibration_error=calibration_error([max(p.probabilities.values()) for p in predictions], right),
    )


def _same_group(answer: str, label: str) -> bool:
    group = emotion_group(label)
    return answer == label or (group is not None and group == emotion_group(answer))


def slice_scores(predictions: Sequence[Prediction], labels: Sequence[str]) -> list[SliceScore]:
    """Accuracy by each field of 2 to 30 values and two predictions a value: field by field, worst first."""
    slices = []
    for field in {name for prediction in predictions for name in prediction.fields}:
        values = sorted({prediction.fields[field] for prediction in predictions if field in prediction.fields})
        for value in values if 2 <= len(values) <= min(MAX_SLICES, len(predictions) // 2) else ():
            part = score([p for p in predictions if p.fields.get(field) == value], labels)
            rates = part.exact_accuracy, part.restricted_exact_accuracy, part.group_accuracy
            slices.append(SliceScore(field, value, *rates))
    return sorted(slices, key=lambda part: (part.field, part.exact_accuracy.rate, part.restricted_exact_accuracy.rate))


def compare(answers: Sequence[str], finetuned: Sequence[Prediction]) -> Comparison:
    """McNemar's exact two-sided test (1947) of another model's answers against the free replies to the same examples:
    of those that only one model got right, how likely shares so unequal would be, were both equally good."""
    right = Counter((answer == p.label, p.reply == p.label) for answer, p in zip(answers, finetuned, strict=True))
    only_other, only_finetuned = right[True, False], right[False, True]
    differing = only_other + only_finetuned
    return Comparison(float(binomtest(only_other, differing).pvalue) if differing else 1.0, len(finetuned))


def calibration_error(confidences: Sequence[float], right: Sequence[bool]) -> float:
    """Expected calibration error (Naeini et al. 2015): over ten equal bins of confidence, how far the share of right
    answers is from the mean confidence, weighted by the samples in each bin."""
    gaps = np.array(right, dtype=float) - confidences
    sums, _ = np.histogram(confidences, bins=10, range=(0, 1), weights=gaps)
    return float(np.abs(sums).sum() / len(gaps))


def macro_f1(truth: Sequence[str], answers: Sequence[str]) -> float:
    """The mean F1 of the labels that occur; an answer that is no label is a miss."""
    return float(f1_score(truth, answers, labels=sorted(set(truth)), average="macro", zero_division=0))
