"""Emojis as labels: the 25 of the shipped dataset, their emotion groups, and one written form for each emoji."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import emoji


@dataclass(frozen=True)
class Emotion:
    """One label: the emoji, when it fits, and its emotion group (a key of `GROUP_EMOJI`)."""

    emoji: str
    meaning: str
    group: str


EMOTIONS = (
    Emotion("😀", "plainly glad, a good ordinary moment", "喜び"),
    Emotion("😁", "very happy, beaming, proud", "喜び"),
    Emotion("🤩", "thrilled, star-struck", "喜び"),
    Emotion("🥳", "celebrating an occasion", "喜び"),
    Emotion("😆", "laughing, that was funny", "笑い"),
    Emotion("🤣", "rolling with laughter", "笑い"),
    Emotion("🤪", "hyper, silly, over the top", "笑い"),
    Emotion("🤭", "giggling, a secret, mischief", "笑い"),
    Emotion("😍", "love it, adore", "愛情"),
    Emotion("🤗", "warmth, a hug, thanks for kindness", "愛情"),
    Emotion("🥹", "moved to tears, touched", "愛情"),
    Emotion("😋", "tasty, satisfied after eating", "食欲"),
    Emotion("🤤", "craving, drooling over food one sees", "食欲"),
    Emotion("☹️", "let down, disappointed", "悲しみ"),
    Emotion("🥺", "wistful, lonely, pleading, worried for someone", "悲しみ"),
    Emotion("😭", "crying hard, overwhelmed", "悲しみ"),
    Emotion("😩", "worn out, too much", "疲れ"),
    Emotion("🫠", "melting, limp, no strength left in a soft way", "疲れ"),
    Emotion("😴", "sleepy, going to bed", "疲れ"),
    Emotion("😤", "irritated, angry, indignant", "怒り"),
    Emotion("🤮", "disgusted, sick, the worst", "怒り"),
    Emotion("🤯", "shocked, mind blown", "驚き"),
    Emotion("😨", "frightened, scared, dread", "驚き"),
    Emotion("😅", "wry smile, cold sweat, awkward slip", "戸惑い"),
    Emotion("🤔", "wondering, undecided", "戸惑い"),
)

LABELS = tuple(emotion.emoji for emotion in EMOTIONS)

# The one emoji that stands for each emotion group: `01_prepare_data.py --groups` maps every label to it.
GROUP_EMOJI = {
    "喜び": "😀",
    "笑い": "🤣",
    "愛情": "😍",
    "食欲": "😋",
    "悲しみ": "😭",
    "疲れ": "😩",
    "怒り": "😤",
    "驚き": "😨",
    "戸惑い": "🤔",
}

# Emojis outside the 25 that a model answers now and then. A reply in the right emotion group is not plainly wrong, so
# the evaluation wants to know their group too.
_OTHER_EMOJIS = {
    "喜び": "😃😄😊🙂☺️😺😸🎉🎊✨👍🙌💪👏😎🏆🌟💯🎂🎁🥂🍻",
    "笑い": "😂😹😜😝😛🙃😏🤡🙊",
    "愛情": "🥰😘😚😙😗😻💕❤️💖💗💓💞💘💙💚💛🧡💜🙏🤝😇🫶💐🌸",
    "食欲": "🍜🍣🍰🍙🍚🍛🍔🍕🍖🍗🍺🍽️🍴☕🍩🍪🍫🍎🍓",
    "悲しみ": "😢😥😞😔🙁😟😿💔😪🥲😓😣😖",
    "疲れ": "😫🥱😮‍💨💤😵🤒😷🤕🛌🥵🥶😌",
    "怒り": "😡😠🤬👿💢🤢😒🙄👎💩😾😑",
    "驚き": "😱😰😧😦😮😲😳🙀💥⚡👻😯😵‍💫",
    "戸惑い": "🤨🧐😐😶😕😬🤷🤦❓❔💭🫤🤐",
}


_GROUP_OF = {item["emoji"]: group for group, text in _OTHER_EMOJIS.items() for item in emoji.emoji_list(text)}
_GROUP_OF |= {emotion.emoji: emotion.group for emotion in EMOTIONS}

# Phones and keyboards leave variation selectors out or add them where the standard has none (⭐️): an emoji is looked up
# without any. In emoji's table no two fully qualified forms differ by their selectors alone.
_SELECTORS = re.compile("[\N{VARIATION SELECTOR-15}\N{VARIATION SELECTOR-16}]")
_FULLY_QUALIFIED = {
    _SELECTORS.sub("", form): form
    for form, entry in emoji.EMOJI_DATA.items()
    if entry["status"] == emoji.STATUS["fully_qualified"]
}
_ALIAS = re.compile(r":[^:\s]+:")

# Below this share of emojis a label set is one of words: a few stray emojis among words, but also emojis of which most
# are misspelt, are told apart.
_MIN_EMOJI_SHARE = 0.2


def is_single_emoji(text: str) -> bool:
    """True when `text` is exactly one emoji: one whole grapheme cluster, selectors and joiners included."""
    return emoji.is_emoji(text) or _SELECTORS.sub("", text) in _FULLY_QUALIFIED


def fully_qualified(label: str) -> str:
    """The one form of an emoji, however it was written: ☹, ☹️ and :frowning_face: become ☹️. Words stay as they are."""
    if _ALIAS.fullmatch(label):
        label = emoji.emojize(label, language="alias")
    return _FULLY_QUALIFIED.get(_SELECTORS.sub("", label), label)


def are_emojis(labels: Iterable[str]) -> bool:
    """True for a label set of emojis, False for one of words. Give each label as often as it occurs."""
    is_emoji = [bool(label) and emoji.purely_emoji(_SELECTORS.sub("", label)) for label in labels]
    return sum(is_emoji) >= max(1, _MIN_EMOJI_SHARE * len(is_emoji))


def emojis_in(text: str) -> list[str]:
    """Every emoji in `text`, in order, each as a whole grapheme cluster."""
    return [item["emoji"] for item in emoji.emoji_list(text)]


def emotion_group(label: str) -> str | None:
    """The emotion group of an emoji, or None for one that the tables do not know."""
    return _GROUP_OF.get(fully_qualified(label))


def group_label(label: str) -> str | None:
    """The emoji that stands for the emotion group of `label`, or None when the group is not known."""
    group = emotion_group(label)
    return GROUP_EMOJI.get(group) if group else None
