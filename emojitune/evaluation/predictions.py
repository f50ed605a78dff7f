"""Predictions of a model on the validation split, and what they are worth."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from emojitune.chat import Generation, generate, label_probabilities, prompt_tokens
from emojitune.dataset import Sample, printable
from emojitune.emotions import emojis_in, emotion_group, is_single_emoji
from emojitune.loading import Speaker
from emojitune.metrics import calibration_error, macro_f1, mcnemar, rate_of

# The system prompt that nobody trained with: the same task in other words.
REWORDED_SYSTEM_PROMPT = "次の文の気持ちに合う絵文字を一つだけ答えて"

# Long enough for every emoji with its end of turn, and to show how the base model rambles.
REPLY = Generation(max_new_tokens=12)

# Prompts that are replied to freely at once, as rows, which are filled up to the longest.
BATCH = 16

CONTEXT_TURNS = 5  # how long the running conversations are

# ln of the least probability that counts: one sample that the model holds for impossible must not be all of log-loss.
LEAST_PROBABILITY = 1e-9


@dataclass(frozen=True)
class Item:
    """One reply to predict: the messages before it, and the label that the data gives."""

    messages: list[dict[str, str]]
    label: str
    turn: int  # 1 in a single-turn sample

    @property
    def text(self) -> str:
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class Prediction:
    """What a model answered: freely (`reply`), and among the labels (`choice`, with every label's probability)."""

    text: str
    label: str
    turn: int
    reply: str
    choice: str
    probabilities: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        likeliest = sorted(self.probabilities.items(), key=lambda pair: -pair[1])[:3]
        row = {**asdict(self), "top3": [{"label": label, "probability": round(p, 6)} for label, p in likeliest]}
        row["label_probability"] = round(self.probabilities[self.label], 9)
        del row["probabilities"]
        return row


def items_of(samples: Iterable[Sample]) -> list[Item]:
    """Every turn of the samples, with the data's own turns before it."""
    items = []
    for sample in samples:
        messages = list(sample.messages)
        for place, message in enumerate(messages):
            if message["role"] == "assistant":
                items.append(Item(messages[:place], message["content"], (place + 1) // 2))
    return items


def with_system(items: Iterable[Item], system: str | None) -> list[Item]:
    """The same items with another system prompt, or none."""
    head = [{"role": "system", "content": system}] if system else []
    return [
        Item([*head, *(message for message in item.messages if message["role"] != "system")], item.label, item.turn)
        for item in items
    ]


# ---- predicting ----------------------------------------------------------------------------------------------------


def predict(
    speaker: Speaker, items: Sequence[Item], labels: Sequence[str], progress: Callable[[int], None]
) -> list[Prediction]:
    """A prediction for each item; `progress` hears how many replies are done, of two for each item."""
    prompts = [prompt_tokens(speaker.tokenizer, item.messages) for item in items]
    rows = restricted(speaker, prompts, labels, progress)
    replies = [""] * len(items)
    for batch in batches_by_length(prompts, BATCH):
        found = generate(speaker.model, speaker.tokenizer, [prompts[index] for index in batch], REPLY)
        for index, reply in zip(batch, found, strict=True):
            replies[index] = printable(reply)
        progress(len(batch))
    return [
        Prediction(item.text, item.label, item.turn, reply, max(row, key=row.__getitem__), row)
        for item, reply, row in zip(items, replies, rows, strict=True)
    ]


def restricted(
    speaker: Speaker, prompts: Sequence[Sequence[int]], labels: Sequence[str], progress: Callable[[int], None]
) -> list[dict[str, float]]:
    """The probability of each label as the reply to each prompt, given that the reply is one of the labels."""
    found = label_probabilities(speaker.model, speaker.tokenizer, prompts, labels, progress)
    return [dict(zip(labels, row, strict=True)) for row in found.tolist()]


def batches_by_length(prompts: Sequence[Sequence[int]], size: int) -> list[Sequence[int]]:
    """Indices of prompts in batches of similar length: little padding, and the same batches every time."""
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    return [order[start : start + size] for start in range(0, len(order), size)]


# ---- scoring -------------------------------------------------------------------------------------------------------


def score(predictions: Sequence[Prediction], known: Sequence[str]) -> dict[str, Any]:
    """Metrics of predictions, rates with their 95 % Wilson intervals. `known` are the labels of the training split.

    The free reply counts for exact and group accuracy, macro-F1, format rate and unseen-emoji rate; the choice among
    the labels for the restricted and top-3 accuracy, log-loss and calibration error. A reply is taken at its first
    emoji for the group, and as a whole for exact accuracy.
    """
    import math

    labels = [prediction.label for prediction in predictions]
    replies = [prediction.reply for prediction in predictions]
    first = [next(iter(emojis_in(reply)), None) for reply in replies]
    unseen = [emoji is not None and emoji not in known for emoji in first]
    top3 = [
        prediction.label in sorted(prediction.probabilities, key=lambda label: -prediction.probabilities[label])[:3]
        for prediction in predictions
    ]
    confidence = [max(prediction.probabilities.values()) for prediction in predictions]
    chosen_right = [prediction.choice == prediction.label for prediction in predictions]
    losses = [
        -math.log(max(LEAST_PROBABILITY, prediction.probabilities[prediction.label])) for prediction in predictions
    ]
    return {
        "exact_accuracy": rate_of([reply == label for reply, label in zip(replies, labels, strict=True)]),
        "group_accuracy": rate_of([_same_group(emoji, label) for emoji, label in zip(first, labels, strict=True)]),
        "macro_f1": macro_f1(labels, replies),
        "format_rate": rate_of([is_single_emoji(reply) for reply in replies]),
        "unseen_emoji_rate": rate_of(unseen),
        "unseen_emojis": _unseen_emojis(predictions, first, unseen),
        "restricted": {
            "exact_accuracy": rate_of(chosen_right),
            "top3_accuracy": rate_of(top3),
            "group_accuracy": rate_of([_same_group(p.choice, p.label) for p in predictions]),
            "macro_f1": macro_f1(labels, [prediction.choice for prediction in predictions]),
            "log_loss": sum(losses) / max(1, len(losses)),
            "calibration_error": calibration_error(confidence, chosen_right),
        },
    }


def _same_group(emoji: str | None, label: str) -> bool:
    if emoji is None:
        return False
    return emoji == label or (emotion_group(emoji) is not None and emotion_group(emoji) == emotion_group(label))


def _unseen_emojis(
    predictions: Sequence[Prediction], first: Sequence[str | None], unseen: Sequence[bool]
) -> list[dict[str, Any]]:
    """The emojis that no training sample had: how often, their emotion group, how often that was the right one."""
    counts: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for prediction, emoji, new in zip(predictions, first, unseen, strict=True):
        if new:
            counts[emoji] += 1
            right[emoji] += _same_group(emoji, prediction.label)
    return [
        {"emoji": emoji, "count": count, "group": emotion_group(emoji), "right_group": right[emoji]}
        for emoji, count in counts.most_common()
    ]


def compare(base: Sequence[Prediction], finetuned: Sequence[Prediction]) -> dict[str, float]:
    """McNemar's p-values for base against fine-tuned: free replies, and choices among the labels."""
    return {
        "mcnemar_p_free": mcnemar([p.reply == p.label for p in base], [p.reply == p.label for p in finetuned]),
        "mcnemar_p_restricted": mcnemar([p.choice == p.label for p in base], [p.choice == p.label for p in finetuned]),
    }


# ---- a running conversation ----------------------------------------------------------------------------------------


def strung_together(samples: Sequence[Sample], count: int) -> list[list[tuple[str, str]]]:
    """`count` conversations of CONTEXT_TURNS unrelated tweets, as (text, label), no two neighbours with one label.

    Deterministic: the single-turn samples in their order, each label in turn.
    """
    waiting: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        if sample.turns == 1:
            waiting[sample.label].append(sample.texts[0])
    conversations: list[list[tuple[str, str]]] = []
    for _ in range(count):
        turns: list[tuple[str, str]] = []
        while len(turns) < CONTEXT_TURNS:
            free = [label for label in waiting if waiting[label] and (not turns or turns[-1][1] != label)]
            if not free:
                return conversations
            label = max(free, key=lambda label: len(waiting[label]))
            turns.append((waiting[label].pop(0), label))
        conversations.append(turns)
    return conversations


def own_turns(samples: Sequence[Sample]) -> list[list[tuple[str, str]]]:
    """The multi-turn samples as conversations of (text, label)."""
    return [list(zip(sample.texts, sample.labels, strict=True)) for sample in samples if sample.turns > 1]


def converse(
    speaker: Speaker,
    conversations: Sequence[Sequence[tuple[str, str]]],
    system: str | None,
    progress: Callable[[int], None],
) -> list[dict[str, Any]]:
    """Talk each conversation through with the model's own replies kept as history; by turn, exact accuracy and
    repeat rate (the reply equals the previous turn's; the labels never do)."""
    head = [{"role": "system", "content": system}] if system else []
    histories = [list(head) for _ in conversations]
    last: list[str | None] = [None] * len(conversations)
    by_turn = []
    for turn in range(max(map(len, conversations), default=0)):
        active = [index for index, turns in enumerate(conversations) if turn < len(turns)]
        for index in active:
            histories[index].append({"role": "user", "content": conversations[index][turn][0]})
        prompts = [prompt_tokens(speaker.tokenizer, histories[index]) for index in active]
        exact, repeated = [], []
        for batch in batches_by_length(prompts, BATCH):
            replies = generate(speaker.model, speaker.tokenizer, [prompts[place] for place in batch], REPLY)
            for place, reply in zip(batch, replies, strict=True):
                index = active[place]
                exact.append(reply == conversations[index][turn][1])
                repeated.append(reply == last[index])
                last[index] = reply
                histories[index].append({"role": "assistant", "content": reply})
            progress(len(batch))
        row: dict[str, Any] = {"turn": turn + 1, "exact_accuracy": rate_of(exact)}
        if turn:
            row["repeat_rate"] = rate_of(repeated)
        by_turn.append(row)
    return by_turn


# ---- the floor to beat ---------------------------------------------------------------------------------------------


def ngram_choices(train: Sequence[Sample], items: Sequence[Item]) -> list[str]:
    """The labels that a character n-gram logistic regression gives, trained on the same training split, turn by turn.

    Characters, since Japanese has no spaces; 1 to 4 of them, weighted by TF-IDF: the usual strong baseline for short
    texts. Its settings were fixed beforehand.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = [text for sample in train for text in sample.texts]
    labels = [label for sample in train for label in sample.labels]
    if len(set(labels)) < 2:
        return [labels[0]] * len(items)
    classifier = make_pipeline(
        TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True),
        LogisticRegression(C=10.0, max_iter=2000),
    )
    classifier.fit(texts, labels)
    return [str(label) for label in classifier.predict([item.text for item in items])]
