"""Every number that is claimed of the shipped dataset."""

import json
import re
from collections import Counter, defaultdict

from conftest import ROOT

from emojitune.dataset import DEFAULT_SYSTEM_PROMPT, load_samples, near_duplicates, validate
from emojitune.emotions import LABELS, emojis_in

ROWS = json.loads((ROOT / "training_data_emotion_jp.json").read_text(encoding="utf-8"))
SAMPLES = load_samples(ROWS)
SINGLES = [sample for sample in SAMPLES if sample.turns == 1]
CONVERSATIONS = [sample for sample in SAMPLES if sample.turns > 1]
TEXTS = [text for sample in SAMPLES for text in sample.texts]

# Words and stems that name an emotion, a state or its expression. A text with none of them leaves it to the situation.
NAMING = (
    "嬉し うれし 喜 楽し たのし 幸せ しあわせ ハッピー 最高 悲し かなし 哀し 寂し さみし さびし 淋し 切な せつな "
    "恋し 怖 こわ コワ 恐 ビビ びび ゾッ ぞっ 震え 眠 ねむ ネム 寝 おやすみ 怒 腹立 腹が立 ムカ むかつ むかっ "
    "イライラ いらいら イラッ いらっ キレ 許せ 許さ 疲れ つかれ しんど だる ダル へとへと ヘトヘト くたくた "
    "クタクタ 限界 無理 ムリ 泣 涙 号泣 笑 わろ ワロ ウケ うける おもしろ 面白 オモロ おもろ おかし 爆笑 草 ww "
    "ｗｗ 好き すき 大好 愛し 愛おし 可愛 かわい カワイ 惚れ 尊 推せ 感動 感激 じーん ジーン 胸が 胸に 沁み "
    "しみる 美味 おいし オイシ うま ウマ 旨 満腹 びっくり ビックリ 驚 衝撃 信じられ 信じがた マジか まじか "
    "え、待っ 気持ち悪 気色 キモ きもい きもち 最悪 吐 オエ おえ 嫌 汚 興奮 テンション ワクワク わくわく "
    "ドキドキ どきどき 残念 がっかり ガッカリ ショック 落ち込 凹 へこ 不安 心配 ありがと 有難 有り難 感謝 "
    "ほっこり あったか 温か おめでと 祝 乾杯 食べたい 飲みたい よだれ ヨダレ 食いたい 悩 迷 わから 分から かな？ "
    "どうしよ どっち 溶け とけ とろけ ふにゃ へにゃ やる気 気まず 冷や汗 苦笑 恥ず 焦 ニヤ にや ふふ うふ "
    "くすくす クスクス 内緒 ないしょ 秘密 誇 自慢 満足 癒 ハグ ぎゅ"
)
NAMES_AN_EMOTION = re.compile("|".join(NAMING.split()))


def test_every_sample_is_valid():
    samples, problems = validate(ROWS, 512, lambda conversations: [0] * len(conversations))
    assert not problems and len(samples) == len(ROWS)
    assert {sample.system for sample in samples} == {DEFAULT_SYSTEM_PROMPT}
    assert {label for sample in samples for label in sample.labels} == set(LABELS)


def test_a_hundred_single_turn_samples_for_each_label():
    counts = Counter(sample.label for sample in SINGLES)
    assert len(SINGLES) >= 2500 and min(counts[label] for label in LABELS) >= 100


def test_three_hundred_conversations_in_which_the_emotion_changes():
    lengths = Counter(sample.turns for sample in CONVERSATIONS)
    assert len(CONVERSATIONS) >= 300 and lengths.keys() == {2, 3, 4, 5} and min(lengths.values()) >= 60
    turns = Counter(label for sample in CONVERSATIONS for label in sample.labels)
    assert min(turns[label] for label in LABELS) >= 20
    for sample in CONVERSATIONS:
        assert all(a != b for a, b in zip(sample.labels, sample.labels[1:], strict=False)), sample.texts


def test_the_small_set_is_ten_for_each_label():
    small = [sample for sample in SAMPLES if sample.small]
    assert Counter(sample.label for sample in small) == dict.fromkeys(LABELS, 10)
    assert all(sample.turns == 1 for sample in small)


def test_no_two_texts_alike_and_no_emoji_in_a_text():
    assert len(set(TEXTS)) == len(TEXTS)
    assert not list(near_duplicates(TEXTS))
    assert not [text for text in TEXTS if emojis_in(text)]


def test_no_opening_in_more_than_two_percent_of_a_label():
    by_label = defaultdict(list)
    for sample in SINGLES:
        by_label[sample.label].append(sample.texts[0][:4])
    for label, openings in by_label.items():
        [(opening, count)] = Counter(openings).most_common(1)
        assert count <= 0.02 * len(openings), (label, opening, count)


def test_a_third_of_each_label_names_no_emotion():
    for label in LABELS:
        texts = [sample.texts[0] for sample in SINGLES if sample.label == label]
        silent = sum(not NAMES_AN_EMOTION.search(text) for text in texts)
        assert silent >= len(texts) / 3, (label, silent, len(texts))
