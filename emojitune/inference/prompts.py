"""Prompts: what the chat and the evaluation ask a model, in the template that training used."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from emojitune.artifacts import UserError
from emojitune.data.samples import CONTROL_TOKEN

MAX_PROMPT_TOKENS = 1024  # twice the longest conversation that training takes by default; more would only be slow


def build_messages(text: str, system: str | None = None) -> list[dict[str, str]]:
    """A new conversation: the system prompt, if there is one, and one text."""
    head = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": text}]


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, Any]]) -> list[int]:
    """The token ids that ask for the next reply; no text can end its own turn: control tokens are taken out."""
    clean = []
    for message in messages:
        text = message["content"].encode(errors="ignore").decode()  # tokenizers refuse half a character, a surrogate
        clean.append({**message, "content": CONTROL_TOKEN.sub("", text)})
    return tokenizer.apply_chat_template(clean, add_generation_prompt=True, return_dict=True)["input_ids"]


def truncate_prompt(tokenizer: PreTrainedTokenizerBase, text: str, system: str | None) -> tuple[list[int], bool]:
    """The prompt for one text, and whether the text was cut to fit it into MAX_PROMPT_TOKENS.

    Raises:
        UserError: if the system prompt alone is longer.
    """
    limit = MAX_PROMPT_TOKENS
    shortened = text[: 8 * limit]  # no need to tokenize a novel
    while True:
        token_ids = encode_prompt(tokenizer, build_messages(shortened, system))
        if len(token_ids) <= limit:
            return token_ids, shortened != text
        if not shortened:
            raise UserError(f"--system leaves no room for a text: {limit} tokens are the most for both; shorten it")
        shortened = shortened[: len(shortened) * limit // len(token_ids)]
