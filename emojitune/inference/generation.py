"""One stateless reply: prompt, generate or choose, stream."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TextStreamer
from transformers.generation.streamers import BaseStreamer

from emojitune.branches import branch_attention, branches, takes_branches
from emojitune.dataset import CONTROL_TOKEN
from emojitune.model import quiet_transformers, stop_tokens
from emojitune.prefix_tree import shared_length

MAX_PROMPT_TOKENS = 1024  # twice the longest conversation that training takes by default; more would only be slow

# What goes through the model at once for restricted replies: the weights are read from memory once for all of it. More
# would not be quicker, only larger; and each prompt may cost a megabyte more, for the logits of all 262,144 words.
PART_TOKENS = 960
PART_PROMPTS = 64


@dataclass(frozen=True)
class Generation:
    """How a reply is generated. Greedy at temperature 0: the likeliest token each time."""

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 20


GREEDY = Generation()


# ---- prompts -------------------------------------------------------------------------------------------------------


def conversation(text: str, system: str | None = None) -> list[dict[str, str]]:
    """A new conversation: the system prompt, when there is one, and one tweet."""
    head = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": text}]


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> list[int]:
    """The tokens that ask for the next reply. Training, evaluation and chat all build their prompts by this template.

    A text cannot end its own turn: what looks like a token of the template is taken out of it.
    """
    clean = [{**message, "content": CONTROL_TOKEN.sub("", message["content"])} for message in messages]
    return tokenizer.apply_chat_template(clean, add_generation_prompt=True, return_dict=True)["input_ids"]


def fitting_prompt(
    tokenizer: PreTrainedTokenizerBase, text: str, system: str | None, limit: int = MAX_PROMPT_TOKENS
) -> tuple[list[int], bool]:
    """The prompt for one input, and whether its text had to be cut to fit `limit` tokens."""
    text = "".join(char for char in text if not 0xD800 <= ord(char) <= 0xDFFF)  # half a surrogate pair is no text
    shortened = text[: 8 * limit]  # no need to tokenize a novel
    while True:
        tokens = prompt_tokens(tokenizer, conversation(shortened, system))
        if len(tokens) <= limit or not shortened:
            return tokens, shortened != text
        shortened = shortened[: min(len(shortened) - 1, len(shortened) * limit // len(tokens))]


# ---- free replies --------------------------------------------------------------------------------------------------


class _Pieces(TextStreamer):
    def __init__(self, tokenizer: PreTrainedTokenizerBase, write: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.write(text)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    generation: Generation = GREEDY,
    write: Callable[[str], None] | None = None,
) -> list[str]:
    """The model's own reply to each prompt. With one prompt, `write` gets the pieces as they come.

    Every setting is given here: the generation config of an instruct model would sample.
    """
    longest = max(map(len, prompts))
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    # On the left, so that every reply starts at the same place.
    rows = [[padding] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    seen = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if generation.temperature > 0:
        sampling = {"do_sample": True, "temperature": generation.temperature, "top_p": generation.top_p, "top_k": 0}
    streamer: BaseStreamer | None = _Pieces(tokenizer, write) if write else None
    with torch.inference_mode(), quiet_transformers():
        output = model.generate(
            input_ids=torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(seen, device=model.device),
            max_new_tokens=generation.max_new_tokens,
            repetition_penalty=generation.repetition_penalty,
            eos_token_id=stop_tokens(tokenizer),
            pad_token_id=padding,
            streamer=streamer,
            **sampling,
        )
    return [text.strip() for text in tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)]


# ---- replies restricted to labels ----------------------------------------------------------------------------------


def label_sequences(tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> list[list[int]]:
    """The tokens of each label; with the end of the turn where another label goes on from them, so that the shorter
    one does not win by being a part of the longer."""
    sequences = [tokenizer.encode(label, add_special_tokens=False) for label in labels]
    end = stop_tokens(tokenizer)[-1]
    return [
        [*own, end] if any(other is not own and other[: len(own)] == own for other in sequences) else own
        for own in sequences
    ]


def _arranged(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]]
) -> tuple[dict[str, Any], list[int], list[int]]:
    """Model inputs for sequences in lexical order, and the row and the place in it of each sequence's last token."""
    longest = max(map(len, sequences))
    if takes_branches(model, longest):
        merged = branches(sequences)
        return merged.model_inputs(model.device, model.dtype), [0] * len(sequences), merged.last_places()
    rows = {
        "input_ids": [[*sequence, *[0] * (longest - len(sequence))] for sequence in sequences],
        "attention_mask": [[1] * len(sequence) + [0] * (longest - len(sequence)) for sequence in sequences],
    }
    inputs = {name: torch.tensor(values, device=model.device) for name, values in rows.items()}
    return inputs, list(range(len(sequences))), [len(sequence) - 1 for sequence in sequences]


def _logits(
    model: PreTrainedModel,
    inputs: dict[str, Any],
    row: torch.Tensor,
    column: torch.Tensor,
    whole: int,
    words: list[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of all words at the first `whole` places, and of these words at the others, in float32; `row` and
    `column` are (places,)."""
    layer = model.get_output_embeddings()
    others: list[torch.Tensor] = []

    def pick(_: torch.nn.Module, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        states = given[0][row, column]
        others.append(states[whole:])
        return (states[:whole],)

    def add_others(_: torch.nn.Module, given: tuple[torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
        bias = None if layer.bias is None else layer.bias[words].float()
        few = functional.linear(others.pop().float(), layer.weight[words].float(), bias)
        # What a model does with its logits (Gemma 2 caps them) it does to each by itself: their shape does not matter.
        return torch.cat([logits.float().flatten(), few.flatten()])

    hooks = [layer.register_forward_pre_hook(pick), layer.register_forward_hook(add_others)]
    attention = branch_attention(model) if "branches" in inputs else contextlib.nullcontext()
    try:
        with attention:
            logits = model(**inputs, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    full, few = logits.split([whole * layer.out_features, (len(row) - whole) * len(words)])
    return full.view(-1, layer.out_features), few.view(-1, len(words))


def _log_probabilities(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], beginnings: Sequence[Sequence[int]], words: list[int]
) -> torch.Tensor:
    """How likely each word is after each prompt and each beginning of a reply, the empty one first; (prompts,
    beginnings, words), float64 on CPU. After the empty one up to a constant of the prompt, which all labels share."""
    inputs, row, column = _arranged(model, [[*prompt, *start] for prompt in prompts for start in beginnings])
    places = torch.tensor([row, column], device=model.device).view(2, len(prompts), len(beginnings))
    places = torch.cat([places[:, :, 1:].flatten(1), places[:, :, 0]], 1)
    full, few = _logits(model, inputs, *places, len(prompts) * (len(beginnings) - 1), words)
    found = torch.empty(len(prompts), len(beginnings), len(words), dtype=torch.float64)
    found[:, 0] = few.cpu()
    if len(full):  # one by one: a row of all words fits into a CPU's cache, many do not
        later = torch.stack([logits.log_softmax(-1)[words] for logits in full])
        found[:, 1:] = later.cpu().view(len(prompts), -1, len(words))
    return found


def _parts(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Indices of prompts in lexical order, in parts that go through the model at once: what begins alike, such as the
    turns of a conversation, stays together."""
    part: list[int] = []
    tokens = 0
    for index in sorted(range(len(prompts)), key=lambda index: list(prompts[index])):
        tokens += len(prompts[index]) - (shared_length(prompts[part[-1]], prompts[index]) if part else 0)
        if part and (tokens > PART_TOKENS or len(part) == PART_PROMPTS):
            yield part
            part, tokens = [], len(prompts[index])
        part.append(index)
    if part:
        yield part


@torch.inference_mode()
def label_probabilities(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    labels: Sequence[str],
    progress: Callable[[int], None] = lambda done: None,
) -> torch.Tensor:
    """How likely each label is as the reply, given that the reply is one of them; (prompts, labels), float64 on CPU.

    The probability of a label is that of its whole token sequence. What prompts have in common goes through the model
    once for a part of them: the system prompt, and a conversation's turns; each later token of a label is one more.
    `progress` hears how many prompts are done.
    """
    sequences = label_sequences(tokenizer, labels)
    words = sorted({token for sequence in sequences for token in sequence})
    beginnings = sorted({tuple(sequence[:cut]) for sequence in sequences for cut in range(len(sequence))})
    steps = [
        [(beginnings.index(tuple(sequence[:cut])), words.index(token)) for cut, token in enumerate(sequence)]
        for sequence in sequences
    ]
    found = torch.empty(len(prompts), len(labels), dtype=torch.float64)
    for part in _parts(prompts):
        after = _log_probabilities(model, [prompts[index] for index in part], beginnings, words)
        totals = [sum(after[:, start, word] for start, word in label) for label in steps]
        found[part] = torch.stack(totals, dim=1).softmax(-1)
        progress(len(part))
    return found
