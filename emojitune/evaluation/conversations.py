"""Running conversations: what becomes of the replies when the model's own ones are the history."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from emojitune.data.samples import Sample, draw, filter_by_turns, is_label
from emojitune.evaluation.metrics import TurnScore
from emojitune.evaluation.predictions import MAX_NEW_TOKENS, Progress, batches
from emojitune.inference.cached_batch import CachedBatch
from emojitune.inference.chat_model import ChatModel
from emojitune.inference.prompts import build_messages, encode_prompt
from emojitune.stats import rate_of

CONCATENATED_TURNS = 5


@dataclass(frozen=True)
class Conversation:
    """What the user says at each turn, and its label; None where the data gives none that counts."""

    system: str | None
    turns: list[tuple[str, str | None]]


def multi_turn_conversations(samples: Sequence[Sample]) -> list[Conversation]:
    """The samples of several turns."""
    conversations = []
    for sample in filter_by_turns(samples, "multi"):
        labels = [m["content"] if is_label(m) else None for m in sample.messages if m["role"] == "assistant"]
        conversations.append(Conversation(sample.system, list(zip(sample.texts, labels, strict=True))))
    return conversations


def concatenated_conversations(samples: Sequence[Sample], count: int, system: str | None) -> list[Conversation]:
    """At most `count` conversations of unrelated single-turn samples, no two neighbours with one label.

    The samples are drawn at random, and put in order from the label of which most are left.
    """
    waiting: dict[str, list[str]] = defaultdict(list)
    for sample in draw(filter_by_turns(samples, "single"), count * CONCATENATED_TURNS):
        waiting[sample.label].append(sample.texts[0])
    conversations: list[Conversation] = []
    while len(conversations) < count:
        turns: list[tuple[str, str | None]] = []
        while len(turns) < CONCATENATED_TURNS:
            free = [label for label in waiting if waiting[label] and not (turns and turns[-1][1] == label)]
            if not free:
                return conversations
            label = max(free, key=lambda label: len(waiting[label]))
            turns.append((waiting[label].pop(0), label))
        conversations.append(Conversation(system, turns))
    return conversations


def run_conversations(
    model: ChatModel, conversations: Sequence[Conversation], alone: Mapping[tuple[str, str], bool], progress: Progress
) -> list[TurnScore]:
    """The scores at each turn, with the model's own replies as history. `alone` holds, by text and label, whether the
    model was right on a text that had no history."""
    labels = sorted({label for row in conversations for _, label in row.turns if label})
    exact, repeated, fresh = defaultdict(list), defaultdict(list), defaultdict(list)  # for each turn, of each row
    for rows in batches(conversations, lambda row: (len(row.turns), sum(len(text) for text, _ in row.turns))):
        histories = [build_messages(row.turns[0][0], row.system) for row in rows]
        prompts = [encode_prompt(model.tokenizer, history) for history in histories]
        batch = CachedBatch(model.model, prompts)
        for turn in range(1, len(rows[0].turns) + 1):
            replies, _ = model.answer(batch, prompts, labels, MAX_NEW_TOKENS)
            for row, history, reply in zip(rows, histories, replies, strict=True):
                text, label = row.turns[turn - 1]
                exact[turn] += [] if label is None else [reply == label]
                fresh[turn] += [alone[text, label]] if (text, label) in alone else []
                repeated[turn] += [reply == history[-2]["content"]] if turn > 1 else []
                history.append({"role": "assistant", "content": reply})
                if turn < len(row.turns):
                    history.append({"role": "user", "content": row.turns[turn][0]})
            prompts = [encode_prompt(model.tokenizer, history) for history in histories]
            progress(len(rows))
    return [
        TurnScore(turn, rate_of(exact[turn]), rate_of(repeated[turn]) if turn > 1 else None, rate_of(fresh[turn]))
        for turn in exact
    ]
