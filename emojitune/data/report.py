"""What a dataset can teach and measure, in numbers and in words."""

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from emojitune.data.samples import Sample, count_labels, sanitize
from emojitune.data.splitting import NearDuplicate, split
from emojitune.stats import ci_half_width

VALIDATION_FRACTION, SEED = 0.2, 42  # the defaults of step 2
SHOWN_PAIRS = 20
_JAPANESE = re.compile(r"[\u3000-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef々〆〤]")


@dataclass(frozen=True)
class DatasetReport:
    """The numbers of a dataset. A summary is (minimum, median, maximum)."""

    samples: int
    turns: int
    turns_without_loss: int  # replies of the weight 0
    samples_per_label: dict[str, int]  # each sample under its last label
    imbalance_ratio: float  # samples of the rarest label over those of the most frequent one
    conversations_by_turns: dict[int, int]
    text_characters: tuple[float, float, float]
    conversation_tokens: tuple[float, float, float]
    japanese_ratio: float  # kana, kanji and Japanese punctuation, of all characters but white space
    expected_validation: int
    ci_half_width: float  # how closely that many samples show an accuracy of one half (95 %)
    ci_half_width_rarest_label: float


def summarize_dataset(samples: Sequence[Sample], token_lengths: Sequence[int]) -> DatasetReport:
    """The report on samples (at least one) and the length in tokens of each."""
    per_label = count_labels(sample.label for sample in samples)
    validation = split(samples, VALIDATION_FRACTION, SEED)[1]
    held_out = Counter(sample.label for sample in validation)
    texts = [text for sample in samples for text in sample.texts]
    characters = "".join("".join(texts).split())
    return DatasetReport(
        samples=len(samples),
        turns=len(texts),
        turns_without_loss=len(texts) - sum(len(sample.labels) for sample in samples),
        samples_per_label=per_label,
        imbalance_ratio=min(per_label.values()) / max(per_label.values()),
        conversations_by_turns=dict(sorted(Counter(sample.turns for sample in samples).items())),
        text_characters=_summary([len(text) for text in texts]),
        conversation_tokens=_summary(token_lengths),
        japanese_ratio=len(_JAPANESE.findall(characters)) / max(1, len(characters)),
        expected_validation=len(validation),
        ci_half_width=ci_half_width(len(validation)),
        ci_half_width_rarest_label=ci_half_width(held_out[min(per_label, key=per_label.get)]),
    )


def dataset_findings(report: DatasetReport) -> list[str]:
    """What a person should know before training on such a dataset, a sentence each."""
    labels, evenness = len(report.samples_per_label), report.imbalance_ratio
    per_label, validation = report.samples / labels, report.expected_validation / labels
    target = f"{100 * labels:,}"
    # 10 samples per label (8 after the split) overfit from the second epoch on, and 100 were the advice, in the story
    # behind this project. Below 10 for validation, one more or less right moves a label's accuracy by more than ten
    # points. Below a half of the most frequent label, always guessing that one begins to pay; He and Garcia (2009) call
    # 1:10 and beyond a real imbalance. Tweets are mostly Japanese even with wwww and brand names in them.
    findings = (
        (True, f"{report.samples:,} samples for {labels} labels: about {per_label - validation:.0f} per label to learn "
               f"from and {validation:.0f} to measure with."),
        (labels == 1, "There is one label only, so there is nothing to tell apart."),
        (per_label < 20,
         f"Expect overfitting after one or two epochs; {target} samples would do, or fewer labels (--labels)."),
        (20 <= per_label < 90, f"Overfitting will come later than with ten per label; {target} would be better."),
        (per_label >= 90, "That is enough to learn from for several epochs."),
        (validation < 10,
         "So few validation samples per label say nothing about single labels, only about all together."),
        (evenness < 0.1, "The labels are far from even: the model will favour the frequent ones; try --per-label."),
        (0.1 <= evenness < 0.5, "The labels are uneven; --per-label evens them out."),
        (report.japanese_ratio < 0.5,
         f"Only {report.japanese_ratio:.0%} of the characters are Japanese: is this the right file?"),
        (set(report.conversations_by_turns) == {1},
         "There are single turns only: in a running conversation the model will repeat itself, so chat statelessly."),
    )  # fmt: skip
    return [sentence for holds, sentence in findings if holds]


def format_report(report: DatasetReport) -> str:
    """The report for the screen."""
    characters, tokens = report.text_characters, report.conversation_tokens
    turns = ", ".join(f"{count} of {n}" for n, count in report.conversations_by_turns.items())
    cells = [f"{label} {count}" for label, count in report.samples_per_label.items()]
    without_loss = f", {report.turns_without_loss} of them without loss" if report.turns_without_loss else ""
    lines = [
        f"  samples         {report.samples:,} ({report.turns:,} turns{without_loss}; conversations by turns: {turns})",
        f"  labels          {len(cells)}, the rarest {report.imbalance_ratio:.2f} times as often as the most frequent",
        *("                  " + "   ".join(cells[start : start + 9]) for start in range(0, len(cells), 9)),
        f"  text            {characters[0]} to {characters[2]} characters, median {characters[1]:.0f}",
        f"  conversation    {tokens[0]} to {tokens[2]} tokens of Gemma's, median {tokens[1]:.0f}",
        f"  Japanese        {report.japanese_ratio:.0%} of the characters",
        f"  validation      {report.expected_validation} samples: an accuracy of 50 % would be known to "
        f"±{100 * report.ci_half_width:.0f} points, that of the rarest label to "
        f"±{100 * report.ci_half_width_rarest_label:.0f}",
    ]
    return "\n".join(["", *lines, "", *dataset_findings(report)])


def format_near_duplicates(pairs: Sequence[NearDuplicate], count: int, samples: Sequence[Sample]) -> str:
    """The first of `count` pairs for the screen, a line each."""
    lines = [f"Near duplicates: {count:,} pairs of texts" + (", the first:" if count > SHOWN_PAIRS else "")]
    for pair in pairs[:SHOWN_PAIRS]:
        first, second = samples[pair.first], samples[pair.second]
        labels = "" if first.label == second.label else ", with different labels"
        texts = " / ".join(sanitize(text, 40) for text in pair.texts)
        lines.append(f"  samples {first.number} and {second.number} are {pair.similarity:.0%} alike{labels}: {texts}")
    return "\n".join(lines)


def _summary(values: Sequence[int]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)
