"""Examples, predictions in batches, running conversations, baselines."""

import pytest
import torch
from conftest import SYSTEM, conversation, sample
from inference.tiny_models import tiny

from emojitune.data.samples import load_samples
from emojitune.evaluation.baselines import measure_baselines
from emojitune.evaluation.conversations import (
    Conversation,
    concatenated_conversations,
    multi_turn_conversations,
    run_conversations,
)
from emojitune.evaluation.predictions import MAX_NEW_TOKENS, build_examples, predict
from emojitune.inference.chat_model import ChatModel
from emojitune.inference.prompts import build_messages, encode_prompt
from emojitune.stats import rate_of

LABELS = ["😀", "😭", "😤", "☹️"]
ROWS = [
    {**sample("朝から虹が見えた", "😀"), "form": "実況"},
    {**sample("犬が旅立った", "😭", system=None), "form": "報告"},
    conversation([("財布が見つかった", "😀"), ("でも中身が空だった、帰りの電車賃もない", "😭"), ("犯人は弟", "😤")]),
    conversation([("夜中に窓が鳴ってる", "😤"), ("なんだ、ただの風か", "😀")]),
    {**sample("私のプリン、名前書いてたのに消えた", "😤"), "form": "愚痴"},
]
ROWS[2]["messages"][4]["weight"] = 0  # this turn is held, and does not count


@pytest.fixture(scope="module")
def model(tiny_tokenizer):
    return ChatModel("base", tiny("gemma", len(tiny_tokenizer)), tiny_tokenizer, "")


def test_every_turn_that_carries_loss_is_an_example():
    examples = build_examples(load_samples(ROWS), ["😀", "😭"])
    assert [(e.label, e.turn, e.sample) for e in examples] == [("😀", 1, 1), ("😭", 1, 2), ("😀", 1, 3), ("😀", 2, 4)]
    assert [e.fields["form"] for e in examples] == ["実況", "報告", "conversation", "conversation"]
    assert [message["role"] for message in examples[3].messages] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize("threads", [1, 2])
def test_predictions_in_batches_equal_one_by_one(model, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)  # with two, two batches at a time
    examples = build_examples(load_samples(ROWS), LABELS)
    done = []
    found = predict(model, examples, LABELS, done.append)
    assert sum(done) == len(examples) == len(found)
    for example, prediction in zip(examples, found, strict=True):
        prompt = encode_prompt(model.tokenizer, example.messages)
        ranked = model.rank_labels(prompt, LABELS)
        assert prediction.reply == model.reply(prompt, MAX_NEW_TOKENS)
        assert prediction.probabilities == pytest.approx(dict(ranked), abs=1e-4)
        assert (prediction.choice, prediction.text, prediction.label) == (ranked[0][0], example.text, example.label)
    row = found[0].as_json()
    assert len(row["probabilities"]) == 3 and row["label_probability"] == round(found[0].probabilities["😀"], 9)


def test_the_turns_of_a_conversation_do_not_go_through_the_model_twice(model):
    examples = build_examples(load_samples(ROWS[2:3]), LABELS)
    longest, seen = max(len(encode_prompt(model.tokenizer, example.messages)) for example in examples), []
    hook = model.model.get_input_embeddings().register_forward_hook(lambda _, given, __: seen.append(given[0].numel()))
    predict(model, examples, LABELS, lambda replies: None)
    hook.remove()
    assert sum(seen) <= longest + len(examples) * (MAX_NEW_TOKENS + 3)


def test_running_conversations_equal_those_held_turn_by_turn(model):
    answer = model.reply(encode_prompt(model.tokenizer, build_messages("虹")), MAX_NEW_TOKENS)
    conversations = [*multi_turn_conversations(load_samples(ROWS)), Conversation(None, [("虹", answer), ("虹", "😀")])]
    exact, repeated = [[], [], []], [[], [], []]
    for row in conversations:
        history, before = [{"role": "system", "content": row.system}] if row.system else [], None
        for turn, (text, label) in enumerate(row.turns):
            history.append({"role": "user", "content": text})
            reply = model.reply(encode_prompt(model.tokenizer, history), MAX_NEW_TOKENS)
            history.append({"role": "assistant", "content": reply})
            exact[turn] += [reply == label] if label else []
            repeated[turn].append(reply == before)
            before = reply
    scores = run_conversations(model, conversations, {("虹", answer): True}, lambda replies: None)
    assert [(s.turn, s.exact_accuracy) for s in scores] == [(n + 1, rate_of(right)) for n, right in enumerate(exact)]
    assert [s.repeat_rate for s in scores] == [None, *map(rate_of, repeated[1:])]
    assert scores[1].exact_accuracy.count == 2
    assert scores[0].alone == rate_of([True]) and scores[2].alone == rate_of([])


def test_a_running_conversation_leaves_room_for_long_labels(model, monkeypatch):
    """Replies used to end after twelve tokens there, so that no long label was right: `answer` needs the labels."""
    monkeypatch.setattr(ChatModel, "answer", lambda self, batch, prompts, labels, most: (labels * len(prompts), None))
    [turn] = run_conversations(model, [Conversation(None, [("雨", "怒っている")])], {}, lambda replies: None)
    assert turn.exact_accuracy.rate == 1


def test_conversations_of_unrelated_texts_never_have_one_label_twice_in_a_row():
    samples = load_samples([sample(f"{label}{n}", label) for label in LABELS[:3] for n in range(9)])
    found = concatenated_conversations(samples, 4, SYSTEM)
    assert len(found) == 4 and all(len(row.turns) == 5 for row in found)
    texts = [text for row in found for text, _ in row.turns]
    assert len(set(texts)) == len(texts)
    assert all(a[1] != b[1] for row in found for a, b in zip(row.turns, row.turns[1:], strict=False))


def test_baselines_know_the_training_split_only():
    train = load_samples([sample("虹が見えた朝", "😀"), sample("虹がきれい", "😀"), sample("犬が旅立った", "😭")])
    examples = build_examples(load_samples([sample("虹だ", "😀"), sample("猫が旅立った", "😭")]), ["😀", "😭"])
    found, choices = measure_baselines(train, examples, ["😀", "😭"])
    assert choices == ["😀", "😭"]
    assert (found.chance, found.most_frequent_label.rate, found.ngram.rate) == (0.5, 0.5, 1.0)
    assert measure_baselines(train[:2], examples[:1], ["😀"])[0].ngram.rate == 1.0
