"""Lengths in tokens, by the embedded model's tokenizer alone: the weights would take seconds more."""

from collections.abc import Sequence

from emojitune.model import embedded_tokenizer


def token_lengths(conversations: Sequence[list[dict[str, str]]]) -> list[int]:
    """The length in tokens of each conversation, chat template included."""
    if not conversations:
        return []
    tokenizer = embedded_tokenizer()
    return [len(tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]) for messages in conversations]
