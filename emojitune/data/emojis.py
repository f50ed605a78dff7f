"""Emojis as labels: the 25 of the shipped dataset, their emotion groups, and one written form for each emoji."""

import re
from collections.abc import Iterable

import emoji

# Each emotion group: the emoji that stands for it (`01_prepare_data.py --groups`), its labels (docs/data.md says when
# each fits), and other emojis that a model answers now and then: a reply in the right group is not plainly wrong.
_GROUPS = {
    "喜び": ("😀", "😀😁🤩🥳", "😃😄😊🙂☺️😺😸🎉🎊✨👍🙌💪👏😎🏆🌟💯🎂🎁🥂🍻"),
    "笑い": ("🤣", "😆🤣🤪🤭", "😂😹😜😝😛🙃😏🤡🙊"),
    "愛情": ("😍", "😍🤗🥹", "🥰😘😚😙😗😻💕❤️💖💗💓💞💘💙💚💛🧡💜🙏🤝😇🫶💐🌸"),
    "食欲": ("😋", "😋🤤", "🍜🍣🍰🍙🍚🍛🍔🍕🍖🍗🍺🍽️🍴☕🍩🍪🍫🍎🍓"),
    "悲しみ": ("😭", "☹️🥺😭", "😢😥😞😔🙁😟😿💔😪🥲😓😣😖"),
    "疲れ": ("😩", "😩🫠😴", "😫🥱😮‍💨💤😵🤒😷🤕🛌🥵🥶😌"),
    "怒り": ("😤", "😤🤮", "😡😠🤬👿💢🤢😒🙄👎💩😾😑"),
    "驚き": ("😨", "🤯😨", "😱😰😧😦😮😲😳🙀💥⚡👻😯😵‍💫"),
    "戸惑い": ("🤔", "😅🤔", "🤨🧐😐😶😕😬🤷🤦❓❔💭🫤🤐"),
}


def emojis_in(text: str) -> list[str]:
    """Every emoji in `text`, in order, each as a whole grapheme cluster."""
    return [item["emoji"] for item in emoji.emoji_list(text)]


LABELS = tuple(label for _, labels, _ in _GROUPS.values() for label in emojis_in(labels))
GROUP_EMOJI = {group: symbol for group, (symbol, _, _) in _GROUPS.items()}
_GROUP_OF = {label: group for group, (_, labels, others) in _GROUPS.items() for label in emojis_in(labels + others)}

# Phones and keyboards leave variation selectors out or add them where the standard has none (⭐️): an emoji is looked up
# without any. In emoji's table no two fully qualified forms differ by their selectors alone.
_SELECTORS = re.compile("[\N{VARIATION SELECTOR-15}\N{VARIATION SELECTOR-16}]")
_FULLY_QUALIFIED = {
    _SELECTORS.sub("", form): form
    for form, entry in emoji.EMOJI_DATA.items()
    if entry["status"] == emoji.STATUS["fully_qualified"]
}


def is_single_emoji(text: str) -> bool:
    """True when `text` is exactly one emoji: one whole grapheme cluster, selectors and joiners included."""
    return emoji.is_emoji(text) or _SELECTORS.sub("", text) in _FULLY_QUALIFIED


def fully_qualified(label: str) -> str:
    """The one form of an emoji, however it was written: ☹, ☹️ and :frowning_face: become ☹️. Words stay as they are."""
    if label.startswith(":") and label.endswith(":"):
        label = emoji.emojize(label, language="alias")
    return _FULLY_QUALIFIED.get(_SELECTORS.sub("", label), label)


def are_emojis(labels: Iterable[str]) -> bool:
    """True for a label set of emojis, False for one of words. Give each label as often as it occurs."""
    is_emoji = [bool(label) and emoji.purely_emoji(_SELECTORS.sub("", label)) for label in labels]
    # A few stray emojis among words are told apart from emojis of which most are misspelt.
    return sum(is_emoji) >= max(1, 0.2 * len(is_emoji))


def emotion_group(label: str) -> str | None:
    """The emotion group of an emoji, or None for one that the tables do not know."""
    return _GROUP_OF.get(fully_qualified(label))
