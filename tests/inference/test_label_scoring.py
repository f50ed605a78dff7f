"""Probabilities of labels, against each label in a row of its own; free replies from the same pass."""

import pytest
import torch
from inference.tiny_models import FAMILIES, slow_logits, tiny
from torch.nn.functional import one_hot

from emojitune.data.emojis import LABELS
from emojitune.inference.cached_batch import CachedBatch
from emojitune.inference.chat_model import ChatModel
from emojitune.inference.generation import GenerationSettings, build_messages, continue_greedily, encode_prompt
from emojitune.inference.label_scoring import label_probabilities, label_token_ids

WORDS = ["joy", "joyful", "anger", "annoyed", "sad", "☹️", "☹"]  # bytes: tries of many branches
TEXTS = ("今日は最高", "もう無理、帰りたい、でもまだ仕事が終わらないし電車もない", "ん")


def one_by_one(model, prompt, sequences):
    """Down the trie, the whole sequence anew at each step; what some label goes on with there shares probability 1."""
    probabilities = []
    for sequence in sequences:
        probability = 1.0
        for depth, token in enumerate(sequence):
            others = [other for other in sequences if other[:depth] == sequence[:depth] and len(other) > depth]
            allowed = sorted({other[depth] for other in others})
            logits = slow_logits(model, prompt + sequence[:depth])
            probability *= float(logits[allowed].softmax(0)[allowed.index(token)])
        probabilities.append(probability)
    return torch.tensor(probabilities, dtype=torch.float64)


@pytest.mark.parametrize("labels", [list(LABELS), WORDS], ids=["emojis", "words"])
@pytest.mark.parametrize("family", FAMILIES)
def test_probabilities_are_those_of_a_slow_walk_down_the_trie(family, labels, tiny_tokenizer):
    model = tiny(family, len(tiny_tokenizer))
    sequences = label_token_ids(tiny_tokenizer, labels)
    prompts = [encode_prompt(tiny_tokenizer, build_messages(text, "分類して")) for text in TEXTS]
    fast, _ = label_probabilities(CachedBatch(model, len(prompts)), prompts, sequences)
    assert torch.allclose(fast.sum(dim=1), torch.ones(len(prompts), dtype=torch.float64))
    for row, prompt in zip(fast, prompts, strict=True):
        torch.testing.assert_close(row, one_by_one(model, prompt, sequences), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_free_replies_of_that_pass_are_those_of_generate_one_by_one(family, tiny_tokenizer):
    model = ChatModel("base", tiny(family, len(tiny_tokenizer)), tiny_tokenizer, "")
    prompts = [encode_prompt(tiny_tokenizer, build_messages(text, "分類して")) for text in TEXTS]
    batch = model.start_batch(prompts).select([0] * len(prompts))
    replies, _ = model.answer(batch, prompts, WORDS, max_new_tokens=8)
    settings = GenerationSettings(max_new_tokens=8)
    assert replies == [model.reply(prompt, settings) for prompt in prompts]
    assert len(set(replies)) > 1


def test_replies_that_have_ended_do_not_wait_for_those_that_ramble(tiny_tokenizer):
    asked, [stop, word] = [], tiny_tokenizer.encode("<end_of_turn>a", add_special_tokens=False)

    class Rambler:
        def select(self, rows):
            return self

        def extend_to(self, sequences):
            asked.append(sequences)
            return one_hot(torch.tensor([word] * len(sequences)))

    first = one_hot(torch.tensor([stop, word, stop]))
    assert continue_greedily(tiny_tokenizer, Rambler(), [[5], [6], [7]], first, 3) == ["", "aaa", ""]
    assert asked == [[[6, word]], [[6, word, word]]]


def test_labels_that_differ_in_their_first_token_take_one_pass(tiny_tokenizer):
    model, passes = tiny("gemma", len(tiny_tokenizer)), []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    sequences = label_token_ids(tiny_tokenizer, LABELS)
    assert max(map(len, sequences)) == 2
    label_probabilities(CachedBatch(model, 1), [[2, 5, 6]], sequences)
    assert len(passes) == 1


def test_only_the_frowning_face_has_two_tokens_in_gemma(tokenizer):
    lengths = dict(zip(LABELS, map(len, label_token_ids(tokenizer, LABELS)), strict=True))
    assert {label for label, length in lengths.items() if length != 1} == {"☹️"}
