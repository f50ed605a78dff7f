"""The evaluation as one page that opens offline: no script, nothing from elsewhere, every picture inside."""

import base64
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import emoji
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from emojitune.artifacts import OutputDirectory, rerun_command
from emojitune.data.emojis import are_emojis, emotion_group
from emojitune.data.samples import sanitize
from emojitune.evaluation.metrics import Evaluation
from emojitune.evaluation.predictions import Prediction
from emojitune.reporting import figures
from emojitune.reporting.diagnosis import Diagnosis, LossCurve
from emojitune.reporting.text import evaluation_findings
from emojitune.stats import Rate, rate_of

MAX_ROWS, MAX_REPLY = 20, 40  # mistakes and sample replies; characters of a reply: the base model rambles
MIN_COUNT = 5  # the best and the worst parts are named among those with at least so many replies


def render_report(
    results: Mapping[str, Evaluation],
    predictions: Mapping[str, Sequence[Prediction]],
    labels: Sequence[str],
    run: Mapping[str, Any],
    curve: LossCurve,
    diagnosis: Diagnosis,
    output: OutputDirectory,
) -> str:
    """The report on the fine-tuned model, with the base model beside it where `results` has one."""
    tuned, found = results["finetuned"], predictions["finetuned"]
    mistakes = sorted((p for p in found if p.choice != p.label), key=lambda p: -p.probabilities[p.choice])
    fields = {item.field: [other for other in tuned.slices if other.field == item.field] for item in tuned.slices}
    parts = {"label": [(label, rate_of([p.reply == label for p in found if p.label == label])) for label in labels]}
    parts |= {field: [(item.value, item.exact_accuracy) for item in items] for field, items in fields.items()}
    confused = Counter((p.label, p.choice) for p in mistakes).most_common(5)
    emojis = EmojiPictures()
    options = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    # Every text passes through `show`, so that none can be forgotten.
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), finalize=emojis.show, **options)
    return environment.get_template("report.html.jinja").render(
        results=results,
        names=figures.MODEL_NAMES,
        run=run,
        labels=labels,
        guessing=math.log(len(labels)),
        baselines=_baselines(results),
        findings=evaluation_findings(results),
        extremes={field: _extremes(rates) for field, rates in parts.items()},
        confused=[(*pair, count, sum(p.label == pair[0] for p in found)) for pair, count in confused],
        diagnosis=diagnosis,
        chat=rerun_command("06_test_finetuned_single.py", output),
        fields=fields,
        mistakes=mistakes[:MAX_ROWS],
        replies=_replies(predictions),
        pictures=_pictures(results, found, labels, run, curve, diagnosis, fields),
        emoji_css=emojis.css,
    )


class EmojiPictures:
    """Emojis as pictures, since not every machine has a font for them: each one's pixels are in the page once."""

    def __init__(self) -> None:
        self._classes: dict[str, str] = {}

    def show(self, value: Any) -> Any:
        """Text from data or models as safe HTML on one line, its emojis as pictures; anything else as it is."""
        if not isinstance(value, str) or isinstance(value, Markup):
            return value
        html, end, text = Markup(), 0, sanitize(value)
        for item in emoji.emoji_list(text):
            name = self._classes.setdefault(item["emoji"], f"e{len(self._classes)}")
            span = Markup('<span class="emoji {}" role="img" aria-label="{}">{}</span>')
            html += escape(text[end : item["match_start"]]) + span.format(name, item["emoji"], item["emoji"])
            end = item["match_end"]
        return html + escape(text[end:])

    def css(self) -> Markup:
        """One rule for each emoji that was shown."""
        rules = []
        for text, name in self._classes.items():
            image, buffer = Image.fromarray(figures.emoji_image(text)), io.BytesIO()
            image.thumbnail((40, 40))
            image.quantize(64).save(buffer, format="png", optimize=True)
            data = base64.b64encode(buffer.getvalue()).decode()
            rules.append(f".{name}{{background-image:url(data:image/png;base64,{data})}}")
        return Markup("\n".join(rules))


def _baselines(results: Mapping[str, Evaluation]) -> dict[str, Rate]:
    """Exact accuracies to see the fine-tuned model's beside, which is the first."""
    rates = {f"{figures.MODEL_NAMES[model]} model": results[model].scores.exact_accuracy for model in results}
    baselines = results["finetuned"].baselines
    chance = Rate(baselines.chance, baselines.chance, baselines.chance, 0)
    rates |= {"n-gram model": baselines.ngram, "most frequent label": baselines.most_frequent_label, "chance": chance}
    return {"fine-tuned model": rates["fine-tuned model"]} | rates


def _extremes(rates: Sequence[tuple[str, Rate]]) -> tuple[list[tuple[str, Rate]], list[tuple[str, Rate]]]:
    """The best three and the worst three, none of them twice."""
    enough = sorted((part for part in rates if part[1].count >= MIN_COUNT), key=lambda part: -part[1].rate)
    count = min(3, len(enough) // 2)
    return enough[:count], enough[::-1][:count]


def _replies(predictions: Mapping[str, Sequence[Prediction]]) -> list[tuple[Prediction, str]]:
    """Replies spread over the whole split, not chosen, each with the base model's, cut, or nothing."""
    base = {(p.text, p.label, p.turn): sanitize(p.reply, MAX_REPLY) for p in predictions.get("base", ())}
    found = predictions["finetuned"]
    chosen = found[:: max(1, len(found) // MAX_ROWS)][:MAX_ROWS]
    return [(p, base.get((p.text, p.label, p.turn), "")) for p in chosen]


def _pictures(results, found, labels, run, curve, diagnosis, fields) -> dict[str, Markup]:
    exact = results["finetuned"].scores.exact_accuracy
    drawn = {f"by {field}": figures.slices_figure(items, exact) for field, items in fields.items()}
    drawn["comparison"] = figures.comparison_figure(results)
    drawn["loss"] = figures.loss_figure(curve, diagnosis.title, run["best_epoch"])
    drawn["confusion"] = figures.confusion_figure(found, labels)
    if are_emojis(labels) and any(emotion_group(p.label) and emotion_group(p.choice) for p in found):
        drawn["groups"] = figures.group_confusion_figure(found)
    if any(results["finetuned"].conversations.values()):
        drawn["conversations"] = figures.conversations_figure(results)
    return {name: Markup(figures.as_data_uri(figure)) for name, figure in drawn.items()}
