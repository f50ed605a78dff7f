"""What a model must beat to be worth its cost."""

from collections import Counter
from collections.abc import Sequence

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from emojitune.data.samples import Sample
from emojitune.evaluation.metrics import Baselines
from emojitune.evaluation.predictions import EvalExample, build_examples
from emojitune.stats import rate_of


def measure_baselines(train: Sequence[Sample], examples: Sequence[EvalExample], labels: Sequence[str]) -> Baselines:
    """The baselines on the same examples as the models, each fitted to the training split."""
    trained, _ = build_examples(train, labels)
    [(most_frequent, _)] = Counter(e.label for e in trained).most_common(1)
    ngram = ngram_choices([e.text for e in trained], [e.label for e in trained], [e.text for e in examples])
    return Baselines(
        chance=1 / len(labels),
        most_frequent_label=rate_of([e.label == most_frequent for e in examples]),
        ngram=rate_of([choice == e.label for choice, e in zip(ngram, examples, strict=True)]),
    )


def ngram_choices(train_texts: Sequence[str], train_labels: Sequence[str], texts: Sequence[str]) -> list[str]:
    """The labels that a linear support vector machine on character n-grams gives, turn by turn: the usual strong
    baseline for short texts, by characters since Japanese has no spaces. On a split of the training split it was two
    points better than logistic regression, and 30 times as fast."""
    if len(set(train_labels)) < 2:  # a classifier needs two classes
        return [train_labels[0]] * len(texts)
    features = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True)
    classifier = make_pipeline(features, LinearSVC()).fit(train_texts, train_labels)
    return [str(label) for label in classifier.predict(texts)]
