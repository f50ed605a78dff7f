"""A small made-up training run and its evaluation."""

from emojitune.data.emojis import LABELS
from emojitune.evaluation import metrics
from emojitune.evaluation.predictions import Prediction
from emojitune.inference.prompts import build_messages
from emojitune.stats import rate_of_count

RUN = {
    "base_model": {"name": "embedded"},
    "settings": {"method": "lora", "learning_rate": 5e-4, "epochs": 4, "seed": 42},
    "system_prompt": "このツイートを絵文字で感情分類してください",
    "labels": list(LABELS),
    "best_epoch": 2,
    "epochs": [{}, {}, {}, {}],
    "seconds": 900.0,
    "device": "cpu",
}


def history(training, validation):
    """Rows of loss_history.jsonl: the same training loss throughout an epoch, and a validation loss after it."""
    rows = [evaluated(0.0, 13.3, 0.0)]
    for epoch, loss in enumerate(training, 1):
        rows += [logged(epoch - 1 + step / 10, loss) for step in range(1, 11)]
        rows += [evaluated(float(epoch), loss, 0.4 + 0.02 * epoch) for loss in validation[epoch - 1 : epoch]]
    return rows


def logged(epoch, loss):
    return {"epoch": epoch, "training_loss": loss, "training_answer_loss": loss, "learning_rate": 5e-4}


def evaluated(epoch, loss, accuracy):
    rates = {"validation_answer_loss": loss, "validation_exact_accuracy": accuracy}
    return {"epoch": epoch, "validation_loss": loss, **rates}


def predictions(labels=LABELS, texts=("朝から虹が見えた",), reply=None):
    """Ten predictions for each label, seven of them right, the others the next label."""
    found = []
    for index, label in enumerate(labels):
        for number in range(10):
            choice = label if number < 7 else labels[(index + 1) % len(labels)]
            probabilities = dict.fromkeys(labels, 0.1 / len(labels)) | {choice: 0.9}
            text = f"{texts[number % len(texts)]} {index}-{number}"
            fields, row = {"form": "plain"}, len(found) + 1
            found.append(Prediction(build_messages(text), label, 1, fields, row, reply or choice, probabilities))
    return found


def results(labels=LABELS, words=False):
    return {model: evaluation(model, right, labels, words) for model, right in (("base", 12), ("finetuned", 180))}


def evaluation(model, right, labels, words):
    """An evaluation in which `right` of 250 replies are right."""
    rate, none = rate_of_count(right, 250), None if words else rate_of_count(right, 250)
    unseen = [] if words else [metrics.UnseenEmoji("😢", 3, "悲しみ", 2)]
    free = (rate, none, 0.71, none, none, unseen)
    restricted = (rate, rate_of_count(right + 40, 250), none, 0.72, 0.95, 0.04)
    forms = {"lower <b>case</b>": 20, "質問": 25, "monologue": 30, "皮肉": 35, "long": 40, "plain": 45}
    by_form = {name: rate_of_count(count, 50) for name, count in forms.items()}
    turns = [metrics.TurnScore(turn, rate, rate if turn > 1 else None, rate) for turn in (1, 2, 3)]
    prompts = {"training": RUN["system_prompt"], "none": None}
    return metrics.Evaluation(
        model="fine-tuned" if model == "finetuned" else model,
        weights="abc",
        samples=240,
        replies=250,
        scores=metrics.Scores(*free, *restricted),
        slices=[
            metrics.SliceScore(field, name, form, form, none and form)
            for field in ("form", "気分😀")
            for name, form in by_form.items()
        ],
        conversations={"own": turns[:2], "strung": turns},
        system_prompts=[metrics.PromptScore(name, system, rate, none, rate) for name, system in prompts.items()],
        baselines=metrics.Baselines(1 / len(labels), rate_of_count(13, 250), rate_of_count(130, 250)),
        against_base=metrics.Comparison(1e-9, 250) if model == "finetuned" else None,
        against_ngram=metrics.Comparison(0.01, 250) if model == "finetuned" else None,
    )
