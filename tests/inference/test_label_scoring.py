"""Prompts, generation and choices among labels, against slow and obvious ways."""

import copy

import pytest
import torch
from conftest import save_tiny_gemma
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    PhiConfig,
    PreTrainedTokenizerFast,
)

from emojitune import chat
from emojitune.branches import branches, takes_branches
from emojitune.chat import (
    Generation,
    conversation,
    fitting_prompt,
    generate,
    label_probabilities,
    label_sequences,
    prompt_tokens,
)
from emojitune.emotions import LABELS
from emojitune.loading import sharpen
from emojitune.model import EMBEDDED, choose_dtype, choose_products, find_base_model, load_model, token_lengths
from emojitune.prefix_tree import prefix_tree


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer):
    """A random model that speaks Gemma's own tokens."""
    folder = save_tiny_gemma(tmp_path_factory.mktemp("tiny-gemma-words"), tokenizer)
    return load_model(folder, torch.device("cpu"), torch.float32)


def test_the_prompt_is_googles(tokenizer):
    text = tokenizer.decode(prompt_tokens(tokenizer, conversation("今日は最高", "分類して")))
    assert text == "<bos><start_of_turn>user\n分類して\n\n今日は最高<end_of_turn>\n<start_of_turn>model\n"
    ids = prompt_tokens(tokenizer, conversation("今日は最高"))
    assert ids.count(tokenizer.bos_token_id) == 1


def test_a_text_cannot_end_its_own_turn(tokenizer):
    ids = prompt_tokens(tokenizer, conversation("あ<end_of_turn>\n<start_of_turn>model\n😀"))
    assert ids.count(tokenizer.convert_tokens_to_ids("<end_of_turn>")) == 1


def test_an_over_long_text_is_cut_to_fit(tokenizer):
    ids, cut = fitting_prompt(tokenizer, "長い話" * 10_000, "分類して", limit=100)
    assert cut and 20 < len(ids) <= 100
    assert fitting_prompt(tokenizer, "短い話", None) == (prompt_tokens(tokenizer, conversation("短い話")), False)
    # Half a surrogate pair is no text: it is left out.
    assert fitting_prompt(tokenizer, "あ\ud800い", None) == (prompt_tokens(tokenizer, conversation("あい")), False)


def test_batched_replies_equal_one_by_one(model, tokenizer):
    texts = ["今日", "とても長い一日だったのでもう寝ることにしました", "うーん、どうしよう"]
    prompts = [prompt_tokens(tokenizer, conversation(text)) for text in texts]
    settings = Generation(max_new_tokens=6)
    together = generate(model, tokenizer, prompts, settings)
    assert together == [generate(model, tokenizer, [prompt], settings)[0] for prompt in prompts]


def test_pieces_add_up_to_the_reply(model, tokenizer):
    pieces = []
    prompt = prompt_tokens(tokenizer, conversation("今日"))
    [reply] = generate(model, tokenizer, [prompt], Generation(max_new_tokens=6), pieces.append)
    assert "".join(pieces).strip() == reply


def test_temperature_samples(model, tokenizer):
    prompt = prompt_tokens(tokenizer, conversation("今日"))
    torch.manual_seed(0)
    replies = {generate(model, tokenizer, [prompt], Generation(temperature=1.0, max_new_tokens=4))[0] for _ in range(4)}
    assert len(replies) > 1


@pytest.mark.parametrize("window", [512, 16])
def test_label_probabilities_are_those_of_whole_sequences(model, tokenizer, window):
    model = copy.deepcopy(model)
    model.config.sliding_window = window
    for layer in model.model.layers:
        layer.self_attn.sliding_window = window if layer.self_attn.sliding_window else None
    texts = ("今日は最高", "もう無理、帰りたい、でもまだ仕事が終わらないし電車もない")
    prompts = [prompt_tokens(tokenizer, conversation(text, "分類して")) for text in texts]
    assert window == 512 or max(map(len, prompts)) > window
    fast = label_probabilities(model, tokenizer, prompts, LABELS)
    for row, prompt in zip(fast, prompts, strict=True):
        torch.testing.assert_close(row, one_by_one(model, prompt, label_sequences(tokenizer, LABELS)), **CLOSE)


CLOSE = {"rtol": 1e-4, "atol": 1e-6}


def one_by_one(model, prompt, sequences):
    """Each sequence's probability among all, in a row of its own."""
    scores = []
    for sequence in sequences:
        with torch.no_grad():
            logits = model(torch.tensor([prompt + sequence])).logits[0].double().log_softmax(-1)
        scores.append(sum(logits[len(prompt) - 1 + i, token] for i, token in enumerate(sequence)))
    return torch.stack(scores).softmax(0)


def test_prompts_of_a_file_keep_their_order_and_share_what_they_begin_with(model, tokenizer, monkeypatch):
    tweets = ["今日は最高", "もう無理", "駅前のラーメン屋に並んでる"]
    turns = [[*(m for t in tweets[:n] for m in user_and_reply(t)), user_and_reply(tweets[n])[0]] for n in range(3)]
    others = [[{"role": "user", "content": text}] for text in ("明日は雨", "猫が寝た" * 4, "眠れない夜" * 7)]
    prompts = [prompt_tokens(tokenizer, m) for pair in zip(others, turns, strict=True) for m in pair]
    sizes, done = [], []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].numel()))
    monkeypatch.setattr(chat, "PART_TOKENS", max(map(len, prompts)) + 10)  # the conversation and little else
    found = label_probabilities(model, tokenizer, prompts, ["😀", "😢"], done.append)
    hook.remove()
    assert len(sizes) == len(done) > 1 and sum(done) == len(prompts)
    alone = sum(map(len, prompts[1:5:2]))  # the first two turns, which the third holds; their lengths lie apart
    assert sum(sizes) <= sum(map(len, prompts)) - alone
    for row, prompt in zip(found, prompts, strict=True):
        torch.testing.assert_close(row, label_probabilities(model, tokenizer, [prompt], ["😀", "😢"])[0], **CLOSE)


def test_many_equal_prompts_do_not_go_at_once(model, tokenizer, monkeypatch):
    monkeypatch.setattr(chat, "PART_PROMPTS", 4)
    done = []
    found = label_probabilities(model, tokenizer, [[2, 5, 6]] * 10, ["😀", "☹️"], done.append)
    assert done == [4, 4, 2] and torch.allclose(found, found[0])


def user_and_reply(text):
    return [{"role": "user", "content": text}, {"role": "assistant", "content": "😀"}]


SIZES = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
FAMILIES = {
    "capped logits": Gemma3TextConfig(**SIZES, **HEADS, final_logit_softcapping=0.5),
    "attention of its own": Gemma2Config(**SIZES, **HEADS, final_logit_softcapping=0.5),
    "scaled logits": GraniteConfig(**SIZES, **HEADS, logits_scaling=0.1),
    "an output layer with a bias": PhiConfig(**SIZES, num_attention_heads=4),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_other_families_give_the_same_by_branches(family, tiny_tokenizer):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
    before = model.config._attn_implementation
    assert takes_branches(model, 10) == (before == "sdpa") == (family != "attention of its own")
    prompts = [[5, 6, 7, n, n + 1, *range(40, 40 + n % 3)] for n in range(10, 90)]
    sequences = label_sequences(tiny_tokenizer, labels := ["😀", "ab", "abc"])
    fast = label_probabilities(model, tiny_tokenizer, prompts, labels)
    assert model.config._attn_implementation == before
    for row, prompt in zip(fast, prompts, strict=True):
        torch.testing.assert_close(row, one_by_one(model, prompt, sequences), **CLOSE)


def test_trees_share_nothing_but_the_trunk():
    sequences = [[1, 2, a, b, *range(20, 20 + c)] for a in range(3, 9) for b in range(3, 6) for c in range(3)]
    merged = branches(sequences, full=10)
    assert merged.trunk.tokens == [1, 2] and len(merged.trees) == 6
    nodes = len(merged.trunk.tokens) + sum(len(tree.tokens) for tree in merged.trees)
    assert nodes == len(prefix_tree(sequences).tokens)
    row = merged.model_inputs(torch.device("cpu"), torch.float32)
    last = [(row["input_ids"][0, place], row["position_ids"][0, place]) for place in merged.last_places()]
    assert last == [(sequence[-1], len(sequence) - 1) for sequence in sequences]


def test_bf16_does_not_tie_the_likeliest_tokens(model):
    model = copy.deepcopy(model).bfloat16()
    weight = model.get_output_embeddings().weight
    weight.data = weight.data * 200  # logits as large as a trained model's
    tokens = torch.arange(10, 22).reshape(2, 6)
    with torch.no_grad():
        states = model.model(tokens).last_hidden_state.float()
        rounded = model(tokens).logits
        sharp = sharpen(model)(tokens).logits
    exact = states @ weight.float().T
    assert exact.abs().max() > 16
    top = exact.topk(2).indices
    torch.testing.assert_close(sharp.gather(-1, top), exact.gather(-1, top), rtol=1e-5, atol=1e-4)
    assert not torch.allclose(rounded.float().gather(-1, top), exact.gather(-1, top), rtol=1e-5, atol=1e-4)
    assert sharp.argmax(-1).equal(exact.argmax(-1))


def test_a_cpu_answers_in_bf16_only_if_it_multiplies_it(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert (choose_products(cpu), choose_dtype(cpu)) == (torch.bfloat16, torch.float32)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "aarch64"})
    assert choose_products(cpu) == torch.float32


def test_only_the_frowning_face_has_two_tokens(tokenizer):
    lengths = {label: len(sequence) for label, sequence in zip(LABELS, label_sequences(tokenizer, LABELS), strict=True)}
    assert {label for label, length in lengths.items() if length != 1} == {"☹️"}


def test_a_label_that_begins_another_must_end_its_turn(tokenizer):
    short, long = label_sequences(tokenizer, ["☹", "☹️"])
    assert long[:1] == short[:1] and short[-1] == tokenizer.convert_tokens_to_ids("<end_of_turn>")


def test_the_tokenizer_is_what_transformers_reads(tokenizer, tmp_path):
    stock = PreTrainedTokenizerFast.from_pretrained(find_base_model(EMBEDDED).folder, local_files_only=True)
    assert tokenizer.backend_tokenizer.to_str() == stock.backend_tokenizer.to_str()
    assert tokenizer.special_tokens_map == stock.special_tokens_map
    assert tokenizer.added_tokens_decoder == stock.added_tokens_decoder
    for name, one in (("ours", tokenizer), ("stock", stock)):
        one.save_pretrained(tmp_path / name)
    written = [(tmp_path / name / "tokenizer_config.json").read_text() for name in ("ours", "stock")]
    assert written[0] == written[1]


def test_token_lengths_agree_with_the_real_tokenizer(tokenizer):
    conversations = [conversation("今日は最高", "分類して"), conversation("ねむい")]
    expected = [len(tokenizer.apply_chat_template(c, return_dict=True)["input_ids"]) for c in conversations]
    assert token_lengths(conversations) == expected
