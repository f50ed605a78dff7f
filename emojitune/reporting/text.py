"""The evaluation for the screen: a table, and what it says in sentences."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import fmean

from emojitune.evaluation.metrics import Comparison, Evaluation
from emojitune.stats import Rate

MIN_COUNT = 5  # the best and the worst parts are named among those with at least so many replies

METRICS = [  # field of Scores, name, meaning
    ("exact_accuracy", "exact accuracy", "the reply is the label and nothing else"),
    ("group_accuracy", "group accuracy", "the first emoji of the reply is of the label's emotion group"),
    ("macro_f1", "macro-F1", "F1 of the replies, averaged over the labels: rare ones count as much; 1 is perfect"),
    ("format_rate", "format rate", "the reply is exactly one emoji, whichever"),
    ("unseen_emoji_rate", "unseen-emoji rate", "the reply starts with an emoji that is no training sample's label"),
    ("restricted_exact_accuracy", "restricted: exact accuracy", "of the labels alone, the most probable is right"),
    ("restricted_top3_accuracy", "restricted: top-3 accuracy", "the right label is among the three most probable"),
    ("restricted_group_accuracy", "restricted: group accuracy", "the most probable label is of the right group"),
    ("restricted_macro_f1", "restricted: macro-F1", "macro-F1 of the most probable labels"),
    ("log_loss", "restricted: log-loss", "how surprised the model is by the right labels; 0 is perfect"),
    ("calibration_error", "restricted: calibration error", "how far probabilities are from outcomes; 0 is perfect"),
]


def format_evaluation(results: Mapping[str, Evaluation]) -> str:
    """The scores of each model side by side, rates with their 95 % intervals."""
    rows = {"": [result.model for result in results.values()]}
    for field, title, _ in METRICS:
        values = [getattr(result.scores, field) for result in results.values()]
        if None not in values:
            rows[title] = [str(value) if isinstance(value, Rate) else f"{value:.3f}" for value in values]
    rows["replies"] = [result.replies for result in results.values()]
    rows["validation samples"] = [result.samples for result in results.values()]
    lines = [f"{title:34}" + "".join(f"{cell:>20}" for cell in cells) for title, cells in rows.items()]
    return "\n".join([*lines, "In brackets: 95 % intervals. Restricted: only labels may be answered."])


def format_slices(results: Mapping[str, Evaluation]) -> list[str]:
    """For each field of the samples, a line with the values at which the fine-tuned model, or else the base model, is
    worst and best."""
    lines = []
    shown = results.get("finetuned") or results["base"]
    for field, parts in groupby(shown.slices, key=lambda part: part.field):
        sides = extremes([(part.value, part.exact_accuracy) for part in parts])
        best, worst = (", ".join(f"{value} {rate}" for value, rate in side) for side in sides)
        lines += [f"Exact accuracy by {field}: worst {worst}; best {best}"] if best else []
    return lines


def extremes(rates: Sequence[tuple[str, Rate]]) -> tuple[list[tuple[str, Rate]], list[tuple[str, Rate]]]:
    """The best three and the worst three, none of them twice; none at all where all are equal."""
    enough = sorted((part for part in rates if part[1].count >= MIN_COUNT), key=lambda part: -part[1].rate)
    count = min(3, len(enough) // 2) if len({part[1].rate for part in enough}) > 1 else 0
    return enough[:count], enough[::-1][:count]


def evaluation_findings(results: Mapping[str, Evaluation]) -> list[str]:
    """What the scores say, a sentence each."""
    baselines = results["base"].baselines
    findings = [
        f"The baselines: chance {baselines.chance:.1%}, the most frequent label {baselines.most_frequent_label}, "
        f"a character n-gram model {baselines.ngram}."
    ]
    tuned = results.get("finetuned")
    if tuned is None:
        return findings
    gap = 100 * (tuned.scores.exact_accuracy.rate - baselines.ngram.rate)
    where = f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}" if gap else "level with"
    findings.append(f"The fine-tuned model is {where} the n-gram model: {_p_value(tuned.against_ngram)}.")
    if gap <= 0 or tuned.against_ngram.mcnemar_p >= 0.05:
        findings.append("So a far smaller tool may do for this data; more samples or epochs may change that.")
    findings.append(
        f"Against the base model, on the {tuned.against_base.samples} replies that both gave: "
        f"{_p_value(tuned.against_base)}."
    )
    if unseen := tuned.scores.unseen_emojis:
        shown = " ".join(f"{row.emoji}×{row.count}" for row in unseen[:8])
        count, right = sum(row.count for row in unseen), sum(row.right_group for row in unseen)
        findings.append(f"Emojis that were never a label in training: {shown}; {right} of {count} in the right group.")
    if turns := tuned.conversations.get("strung"):
        inside, alone, repeat = (
            fmean(getattr(turn, name).rate for turn in turns[1:]) for name in ("exact_accuracy", "alone", "repeat_rate")
        )
        findings.append(
            f"In a running conversation of unrelated tweets exact accuracy is {inside:.0%} from turn 2 on, and "
            f"{alone:.0%} for the same tweets alone; {repeat:.0%} of the replies there repeat the one before, which "
            "the labels never do."
        )
    return findings


def _p_value(comparison: Comparison) -> str:
    p = comparison.mcnemar_p
    shown = "< 0.0001" if p < 1e-4 else f"= {p:.4f}"
    return f"McNemar's exact p {shown}" + ("" if p < 0.05 else ", which chance may well explain")
