"""The evaluation as one page that opens offline, and as a few lines for the screen."""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

from emojitune import figures
from emojitune.artifacts import OutputDirectory
from emojitune.dataset import printable
from emojitune.emotions import GROUP_EMOJI, emotion_group
from emojitune.evaluation import Prediction

NAMES = {"base": "base", "finetuned": "fine-tuned"}

SHOWN_MISTAKES = SHOWN_REPLIES = 20

# What a row of the table is called, and where its rate is.
ROWS = (
    ("exact accuracy", ("exact_accuracy",)),
    ("group accuracy", ("group_accuracy",)),
    ("format rate (exactly one emoji)", ("format_rate",)),
    ("unseen-emoji rate", ("unseen_emoji_rate",)),
    ("restricted: exact accuracy", ("restricted", "exact_accuracy")),
    ("restricted: top-3 accuracy", ("restricted", "top3_accuracy")),
    ("restricted: group accuracy", ("restricted", "group_accuracy")),
)
NUMBERS = (
    ("macro-F1", ("macro_f1",)),
    ("restricted: log-loss", ("restricted", "log_loss")),
    ("restricted: calibration error", ("restricted", "calibration_error")),
)


def _at(result: dict[str, Any], path: Sequence[str]) -> Any:
    for key in path:
        result = result[key]
    return result


def percent(rate: dict[str, Any]) -> str:
    low, high = rate["interval"]
    return f"{rate['rate']:.1%} ({100 * low:.0f}–{100 * high:.0f})"


# ---- for the screen ------------------------------------------------------------------------------------------------


def metrics_as_text(results: dict[str, dict[str, Any]]) -> str:
    """The metrics of each model side by side, rates with their 95 % intervals."""
    lines = [f"{'':34}" + "".join(f"{NAMES[name]:>20}" for name in results)]
    for title, path in ROWS:
        lines.append(f"{title:34}" + "".join(f"{percent(_at(result, path)):>20}" for result in results.values()))
    for title, path in NUMBERS:
        lines.append(f"{title:34}" + "".join(f"{_at(result, path):>20.3f}" for result in results.values()))
    first = next(iter(results.values()))
    lines.append(f"{first['replies']} replies on {first['samples']} validation samples, 95 % intervals in brackets")
    return "\n".join(lines)


def verdict(results: dict[str, dict[str, Any]]) -> list[str]:
    """What the numbers say, a sentence each."""
    floor = next(iter(results.values()))["floor"]
    sentences = [
        f"The floor: chance {floor['chance']:.1%}, the most frequent label {percent(floor['most_frequent_label'])}, "
        f"a character n-gram model {percent(floor['ngram'])}."
    ]
    if "finetuned" not in results:
        return sentences
    tuned = results["finetuned"]
    gap = 100 * (tuned["exact_accuracy"]["rate"] - floor["ngram"]["rate"])
    if gap > 0:
        sentences.append(f"The fine-tuned model is {gap:.1f} points above the n-gram model.")
    else:
        sentences.append(
            f"The fine-tuned model does not beat the n-gram model ({gap:.1f} points): for this data a far smaller tool "
            "would do; more samples or another learning rate may change that."
        )
    p = tuned["against_base"]["mcnemar_p_free"]
    sentences.append(f"Against the base model: McNemar's exact p {'below 0.0001' if p < 1e-4 else f'= {p:.4f}'}.")
    unseen = tuned["unseen_emojis"]
    if unseen:
        shown = " ".join(f"{row['emoji']}×{row['count']}" for row in unseen[:8])
        count, right = sum(row["count"] for row in unseen), sum(row["right_group"] for row in unseen)
        sentences.append(
            f"Emojis that were never in the training data: {shown}; {right} of {count} in the right group."
        )
    if "context" in tuned:
        turns = tuned["context"]["strung_together"]
        if len(turns) > 2:
            last = turns[-1]
            sentences.append(
                f"In a running conversation {turns[1]['repeat_rate']['rate']:.0%} of the replies at turn 2 repeat the "
                f"one before, {last['repeat_rate']['rate']:.0%} at turn {last['turn']}; the labels never do."
            )
    return sentences


# ---- the page ------------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --line: #d1d5db; --dim: #6b7280; --back: #fff; --text: #111827; --card: #f9fafb; }
@media (prefers-color-scheme: dark) {
  :root { --line: #374151; --dim: #9ca3af; --back: #0b0f17; --text: #e5e7eb; --card: #111827; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--back); color: var(--text);
  font: 16px/1.6 "Japanese", system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem; text-align: left; vertical-align: top; }
th { color: var(--dim); font-weight: 600; }
.note { color: var(--dim); font-size: .9rem; }
.emoji { height: 1.3em; width: auto; display: inline; vertical-align: middle; background: none; border-radius: 0; }
li { margin: .2rem 0; }
"""


def page(
    results: dict[str, dict[str, Any]],
    predictions: dict[str, Sequence[Prediction]],
    labels: Sequence[str],
    run: dict[str, Any],
    diagnosis: dict[str, Any] | None,
    output: OutputDirectory,
) -> str:
    """The whole report; every text from data or models is escaped, every picture is inside."""
    tuned, settings = predictions["finetuned"], run["settings"]
    parts = [
        "<h1>emojitune: what the model learnt</h1>",
        f"<p>{_text(run['base_model']['name'])}, {_text(settings['method'])}, learning rate "
        f"{settings['learning_rate']:g}, seed {settings['seed']}; best epoch {run['best_epoch']} of "
        f"{len(run['epochs'])}, {run['seconds'] / 60:.1f} minutes on {_text(run['device'])}.</p>",
        "<ul>" + "".join(f"<li>{_text(sentence)}</li>" for sentence in verdict(results)) + "</ul>",
        "<h2>Base against fine-tuned</h2>",
        _metrics_table(results),
        _picture(figures.comparison_figure(results), "Bars: accuracies of the base and the fine-tuned model"),
    ]
    if diagnosis:
        parts += ["<h2>The loss curve</h2>", _diagnosis(diagnosis, run)]
    parts += [
        "<h2>Which labels are taken for which</h2>",
        '<p class="note">Rows: the label of the data. Columns: the fine-tuned model\'s choice among the labels.</p>',
        _picture(figures.confusion_figure(tuned, list(labels)), "Heat map: labels against choices"),
        "<h2>Which emotion groups</h2>",
        _picture(_group_confusion(tuned), "Heat map: emotion groups against choices"),
    ]
    if "context" in results["finetuned"]:
        parts += [
            "<h2>In a running conversation</h2>",
            '<p class="note">The history is kept, with the model\'s own replies. Repeat rate: the reply equals the one '
            "before.</p>",
            _picture(figures.context_figure(results), "Curves: repeat rate and exact accuracy by turn"),
            "<h2>With other system prompts</h2>",
            _prompts_table(results),
        ]
    parts += [
        "<h2>The most confident mistakes</h2>",
        _mistakes_table(tuned),
        "<h2>Sample replies</h2>",
        _replies_table(predictions),
        '<p class="note">Emoji pictures: OpenMoji, CC BY-SA 4.0. Japanese letters: IPAex Gothic, IPA Font License.</p>',
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<title>emojitune report</title>\n"
        f"<style>{_STYLE}{_font_face(body)}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _font_face(text: str) -> str:
    """The Japanese letters of `text` as a font inside the page, for a machine that has none.

    It stands first among the fonts, for Japanese only: further back, Chromium drew boxes for the text that asked first.
    """
    from fontTools import subset, ttLib

    options = subset.Options(flavor="woff", layout_features=[], hinting=False, notdef_outline=False)
    font = ttLib.TTFont(figures.japanese_font(), recalcTimestamp=False)  # the same page from the same evaluation
    subsetter = subset.Subsetter(options)
    subsetter.populate(text="".join({char for char in text if char >= "\u2e80"}))
    subsetter.subset(font)
    buffer = io.BytesIO()
    subset.save_font(font, buffer, options)
    data = base64.b64encode(buffer.getvalue()).decode()
    own = "".join(f'local("{name}"), ' for name in ("Hiragino Sans", "Noto Sans JP", "Noto Sans CJK JP", "Yu Gothic"))
    source = f"{own}url(data:font/woff;base64,{data})"
    return f'@font-face {{ font-family: "Japanese"; unicode-range: U+2E80-FFEF; src: {source}; }}\n'


def _text(value: str) -> str:
    return html.escape(printable(value))


def _emoji(label: str) -> str:
    """An emoji as a small picture, with itself as the alternative text: no machine shows a box."""
    from PIL import Image

    image = Image.fromarray(figures.emoji_image(label))
    image.thumbnail((40, 40))
    return f'<img class="emoji" alt="{_text(label)}" src="{_data_uri(image)}">'


def _data_uri(image: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _picture(figure: Any, description: str) -> str:
    return f'<img alt="{_text(description)}" src="data:image/png;base64,{figures.as_base64(figure)}">'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    header = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{header}</tr>{body}</table></div>'


def _metrics_table(results: dict[str, dict[str, Any]]) -> str:
    rows = [[title, *(percent(_at(result, path)) for result in results.values())] for title, path in ROWS]
    rows += [[title, *(f"{_at(result, path):.3f}" for result in results.values())] for title, path in NUMBERS]
    count = next(iter(results.values()))["replies"]
    note = f'<p class="note">{count} replies; 95 % Wilson intervals in brackets.</p>'
    return _table(["", *(NAMES[name] for name in results)], rows) + note


def _diagnosis(diagnosis: dict[str, Any], run: dict[str, Any]) -> str:
    from emojitune.diagnosis import Curve

    curve = Curve(
        [tuple(point) for point in diagnosis["curve"]["training"]],
        [tuple(point) for point in diagnosis["curve"]["validation"]],
    )
    picture = _picture(figures.loss_figure(curve, diagnosis["title"], run["best_epoch"]), diagnosis["title"])
    sentences = "".join(f"<li>{_text(sentence)}</li>" for sentence in diagnosis["findings"] + diagnosis["advice"])
    return f"{picture}<ul>{sentences}</ul>"


def _group_confusion(predictions: Sequence[Prediction]) -> Any:
    grouped = [(emotion_group(p.label), emotion_group(p.choice)) for p in predictions]
    groups = [group for group in GROUP_EMOJI if any(group in pair for pair in grouped)]
    return figures.group_confusion_figure([pair for pair in grouped if None not in pair], groups)


def _prompts_table(results: dict[str, dict[str, Any]]) -> str:
    rows = []
    for key, title in (("training", "the training prompt"), ("none", "none"), ("reworded", "reworded")):
        prompt = results["finetuned"]["system_prompts"][key]["system"]
        cells = [title + (f"<br><span class='note'>{_text(prompt)}</span>" if prompt else "")]
        for result in results.values():
            found = result["system_prompts"][key]
            cells += [percent(found["exact_accuracy"]), percent(found["format_rate"])]
        rows.append(cells)
    head = ["system prompt"]
    for name in results:
        head += [f"{NAMES[name]}: exact accuracy", f"{NAMES[name]}: format rate"]
    return _table(head, rows)


def _mistakes_table(predictions: Sequence[Prediction]) -> str:
    wrong = [p for p in predictions if p.choice != p.label]
    wrong.sort(key=lambda p: -p.probabilities[p.choice])
    rows = [
        [_emoji(p.label), _emoji(p.choice), f"{p.probabilities[p.choice]:.0%}", _text(p.text)]
        for p in wrong[:SHOWN_MISTAKES]
    ]
    return _table(["label", "choice", "sure by", "text"], rows)


def _replies_table(predictions: dict[str, Sequence[Prediction]]) -> str:
    """Replies spread over the whole split, not chosen."""
    rows = []
    total = len(predictions["finetuned"])
    for place in range(0, total, max(1, total // SHOWN_REPLIES)):
        base, tuned = predictions["base"][place], predictions["finetuned"][place]
        rows.append([_text(tuned.text), _emoji(tuned.label), _reply(tuned.reply), _text(printable(base.reply, 40))])
    return _table(["text", "label", "fine-tuned", "base"], rows[:SHOWN_REPLIES])


def _reply(reply: str) -> str:
    from emojitune.emotions import is_single_emoji

    return _emoji(reply) if is_single_emoji(reply) else _text(printable(reply, 40))
