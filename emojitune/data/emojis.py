"""The 25 emojis that the dataset uses, what each means, and the emotion group it belongs to."""

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


def _group_table() -> dict[str, str]:
    table = {item["emoji"]: group for group, text in _OTHER_EMOJIS.items() for item in emoji.emoji_list(text)}
    return table | {emotion.emoji: emotion.group for emotion in EMOTIONS}


_GROUP_OF = _group_table()


def is_single_emoji(text: str) -> bool:
    """True when `text` is exactly one emoji: one whole grapheme cluster, variation selector and joiners included."""
    return emoji.is_emoji(text)


def emojis_in(text: str) -> list[str]:
    """Every emoji in `text`, in order, each as a whole grapheme cluster."""
    return [item["emoji"] for item in emoji.emoji_list(text)]


def emotion_group(label: str) -> str | None:
    """The emotion group of an emoji, or None for one that the tables do not know."""
    return _GROUP_OF.get(label)


def group_label(label: str) -> str | None:
    """The emoji that stands for the emotion group of `label`, or None when the group is not known."""
    group = emotion_group(label)
    return GROUP_EMOJI.get(group) if group else None
