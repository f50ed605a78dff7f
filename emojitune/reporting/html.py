"""The evaluation as one page that opens offline: no script, nothing from elsewhere, every picture inside."""

import base64
import io
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import emoji
import matplotlib.pyplot as plt
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from PIL import Image

from emojitune.artifacts import OutputDirectory, rerun_command
from emojitune.data.emojis import GROUP_EMOJI, are_emojis, emotion_group
from emojitune.data.samples import sanitize
from emojitune.evaluation.metrics import Evaluation
from emojitune.evaluation.predictions import Prediction
from emojitune.reporting import figures
from emojitune.reporting.diagnosis import Diagnosis, LossCurve
from emojitune.reporting.text import METRICS, evaluation_findings, extremes
from emojitune.stats import rate_of

MAX_ROWS, MAX_REPLY = 20, 40  # mistakes and sample replies; characters of a reply: the base model rambles


def render_report(
    results: Mapping[str, Evaluation],
    predictions: Mapping[str, Sequence[Prediction]],
    labels: Sequence[str],
    run: Mapping[str, Any],
    curve: LossCurve,
    diagnosis: Diagnosis,
    output: OutputDirectory,
) -> str:
    """The report on the fine-tuned model, with the base model beside it."""
    tuned, found = results["finetuned"], predictions["finetuned"]
    fields = {field: list(items) for field, items in groupby(tuned.slices, key=attrgetter("field"))}
    parts = {"label": [(label, rate_of([p.reply == label for p in found if p.label == label])) for label in labels]}
    parts |= {field: [(item.value, item.exact_accuracy) for item in items] for field, items in fields.items()}
    mistakes = sorted((p for p in found if p.choice != p.label), key=lambda p: -p.probabilities[p.choice])
    confused = Counter((p.label, p.choice) for p in mistakes).most_common(5)
    prompt = attrgetter("text", "label", "turn")
    base_replies = {prompt(p): sanitize(p.reply, MAX_REPLY) for p in predictions["base"]}
    both = [(p, base_replies[prompt(p)]) for p in found if prompt(p) in base_replies]
    overall = tuned.scores.exact_accuracy
    drawn = {
        "comparison": figures.comparison_figure(results),
        "loss": figures.loss_figure(curve, diagnosis.title, run["best_epoch"]),
        **{f"by {field}": figures.slices_figure(items, overall) for field, items in fields.items()},
        **_confusion_figures(found, labels),
    }
    if any(tuned.conversations.values()):
        drawn["conversations"] = figures.conversations_figure(results)
    pictures = {name: _data_url(figure.savefig, dpi=110) for name, figure in drawn.items()}
    plt.close("all")
    emojis = EmojiPictures()
    options = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    # Every text passes through `show`, so that none can be forgotten.
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), finalize=emojis.show, **options)
    return environment.get_template("report.html.jinja").render(
        results=results,
        run=run,
        labels=labels,
        guessing=math.log(len(labels)),
        metrics=METRICS,
        findings=evaluation_findings(results),
        extremes={field: extremes(rates) for field, rates in parts.items()},
        confused=[(*pair, count, sum(p.label == pair[0] for p in found)) for pair, count in confused if count > 1],
        diagnosis=diagnosis,
        chat=rerun_command("06_test_finetuned_single.py", output),
        fields=fields,
        mistakes=mistakes[:MAX_ROWS],
        replies=both[:: math.ceil(len(both) / MAX_ROWS)],  # evenly over those that both models answered, not chosen
        pictures=pictures,
        emoji_css=emojis.css,
    )


class EmojiPictures:
    """Emojis as pictures, since not every machine has a font for them: each one's pixels are in the page once."""

    def __init__(self) -> None:
        self._classes: dict[str, str] = {}

    def show(self, value: Any) -> Any:
        """Text from data or models as safe HTML on one line, its emojis as pictures; anything else as it is."""
        if type(value) is not str:  # Markup is safe already
            return value

        def picture(text: str, _: object) -> str:
            name = self._classes.setdefault(text, f"e{len(self._classes)}")
            return f'<span class="emoji {name}" role="img" aria-label="{text}">{text}</span>'

        return Markup(emoji.replace_emoji(str(escape(sanitize(value))), picture))

    def css(self) -> Markup:
        """One rule for each emoji that was shown."""
        rules = []
        for text, name in self._classes.items():
            image = Image.fromarray(figures.emoji_image(text))
            image.thumbnail((40, 40))
            url = _data_url(image.quantize(64).save, optimize=True)
            rules.append(f".{name}{{background-image:url({url})}}")
        return Markup("\n".join(rules))


def _data_url(save: Callable[..., None], **options: Any) -> Markup:
    """What `save` writes to a file, as a PNG inside a URL."""
    buffer = io.BytesIO()
    save(buffer, format="png", **options)
    return Markup("data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode())


def _confusion_figures(found: Sequence[Prediction], labels: Sequence[str]) -> dict[str, Figure]:
    """By label and, where the labels are emojis, by emotion group."""
    drawn = {"confusion": figures.confusion_figure([(p.label, p.choice) for p in found], labels)}
    pairs = [(emotion_group(p.label), emotion_group(p.choice)) for p in found]
    known = [pair for pair in pairs if None not in pair]
    if known and are_emojis(labels):
        groups = [group for group in GROUP_EMOJI if any(group in pair for pair in known)]
        drawn["groups"] = figures.confusion_figure(known, groups)
    return drawn
