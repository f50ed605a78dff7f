"""Free replies: in pieces, sampled, and of a batch."""

import pytest
import torch
from inference.tiny_models import FAMILIES, TEXTS, tiny

from emojitune.inference.cached_batch import CachedBatch
from emojitune.inference.chat_model import ChatModel
from emojitune.inference.label_scoring import label_token_ids
from emojitune.inference.prompts import build_messages, encode_prompt


@pytest.fixture(scope="module", params=FAMILIES)
def chat(request, tiny_tokenizer):
    return ChatModel("base", tiny(request.param, len(tiny_tokenizer)), tiny_tokenizer, "")


@pytest.fixture
def prompts(tiny_tokenizer):
    return [encode_prompt(tiny_tokenizer, build_messages(text, "分類して")) for text in TEXTS]


def test_pieces_add_up_to_the_reply_and_are_safe_for_a_terminal(chat, prompts):
    [escape] = chat.tokenizer.encode("\x1b", add_special_tokens=False)
    always = lambda _, given, logits: torch.zeros_like(logits).index_fill(-1, torch.tensor([escape]), 1.0)  # noqa: E731
    hook, pieces = chat.model.lm_head.register_forward_hook(always), []
    reply = chat.reply(prompts[0], 3, on_text=pieces.append)
    hook.remove()
    assert "".join(pieces) == reply == "\N{REPLACEMENT CHARACTER}" * 3


def test_temperature_samples_and_zero_does_not(chat, prompts):
    torch.manual_seed(0)
    for temperature, different in ((0.0, False), (1.5, True)):
        replies = {chat.reply(prompts[0], 4, temperature) for _ in range(4)}
        assert (len(replies) > 1) == different


def test_replies_of_a_batch_are_those_one_by_one(chat, prompts):
    labels = ["joy", "joyful", "☹️", "☹"]  # scored before the free reply, in passes that are taken back
    replies, _ = chat.answer(CachedBatch(chat.model, prompts), prompts, labels, max_new_tokens=2)
    room = 1 + max(map(len, label_token_ids(chat.tokenizer, labels)))  # the longest label must fit, and an end
    assert replies == [chat.reply(prompt, room) for prompt in prompts] and room > 3
    assert len(set(replies)) > 1
