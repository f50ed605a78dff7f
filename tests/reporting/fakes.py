"""A small made-up training run and its evaluation."""

from emojitune.data.emojis import LABELS
from emojitune.evaluation.metrics import (
    Baselines,
    Comparison,
    Evaluation,
    PromptScore,
    Scores,
    SliceScore,
    TurnScore,
    UnseenEmoji,
)
from emojitune.evaluation.predictions import Prediction
from emojitune.stats import rate_of_count

RUN = {
    "base_model": {"name": "embedded", "weights": {}},
    "settings": {"method": "lora", "learning_rate": 5e-4, "seed": 42, "epochs": 4},
    "system_prompt": "このツイートを絵文字で感情分類してください",
    "labels": list(LABELS),
    "best_epoch": 2,
    "epochs": [{}, {}, {}, {}],
    "seconds": 900.0,
    "device": "cpu",
    "ended": "finished",
}


def history(training, validation, before=13.3, per_epoch=10):
    """Rows of loss_history.jsonl: the same training loss throughout an epoch, and a validation loss after it."""
    rows = [evaluated(0.0, before, 0.0)]
    for epoch, loss in enumerate(training, 1):
        rows += [logged(epoch - 1 + step / per_epoch, loss) for step in range(1, per_epoch + 1)]
        if epoch <= len(validation):
            rows.append(evaluated(float(epoch), validation[epoch - 1], 0.4 + 0.02 * epoch))
    return rows


def logged(epoch, loss):
    return {"epoch": epoch, "training_loss": loss, "training_answer_loss": loss, "learning_rate": 5e-4}


def evaluated(epoch, loss, accuracy):
    rates = {"validation_answer_loss": loss, "validation_exact_accuracy": accuracy}
    return {"epoch": epoch, "validation_loss": loss, **rates}


def predictions(labels=LABELS, right=7, texts=("朝から虹が見えた、いい一日になりそう",), reply=None):
    """Ten predictions for each label, `right` of them right."""
    found = []
    for index, label in enumerate(labels):
        for number in range(10):
            choice = label if number < right else labels[(index + 1) % len(labels)]
            others = {other: 0.1 / len(labels) for other in labels}
            text = f"{texts[number % len(texts)]} {index}-{number}"
            found.append(Prediction(text, label, 1, reply or choice, choice, others | {choice: 0.9}, {"form": "plain"}))
    return found


def evaluation(model, right, labels=LABELS, words=False, base=None):
    """An evaluation in which `right` of 250 replies are right."""
    rate = rate_of_count(right, 250)
    emoji_rate = None if words else rate
    unseen = [] if words else [UnseenEmoji("😢", 3, "悲しみ", 2)]
    forms = {"lower <b>case</b>": 20, "質問": 25, "monologue": 30, "皮肉": 35, "long": 40, "plain": 45}
    by_form = {name: rate_of_count(count, 50) for name, count in forms.items()}
    turns = [
        TurnScore(turn, rate_of_count(right // turn, 250), rate_of_count(20 * turn, 250) if turn > 1 else None)
        for turn in (1, 2, 3)
    ]
    free = (rate, emoji_rate, 0.71, emoji_rate, None if words else rate_of_count(3, 250), unseen)
    restricted = (rate, rate_of_count(min(250, right + 40), 250), emoji_rate, 0.72, 0.95, 0.04)
    prompts = {"training": RUN["system_prompt"], "none": None}
    return Evaluation(
        model=model,
        weights="abc",
        samples=240,
        replies=250,
        scores=Scores(*free, *restricted),
        slices=[SliceScore("form", name, form, form, None if words else form) for name, form in by_form.items()],
        conversations={"own": turns[:2], "strung": turns},
        system_prompts=[PromptScore(name, system, rate, emoji_rate, rate) for name, system in prompts.items()],
        baselines=Baselines(1 / len(labels), rate_of_count(13, 250), rate_of_count(130, 250)),
        against_base=base and Comparison(1e-9, 1e-6, 250),
    )


def results(**options):
    base = evaluation("base", 12, **options)
    return {"base": base, "finetuned": evaluation("finetuned", 180, base=base, **options)}
