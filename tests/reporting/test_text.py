"""What the evaluation says in sentences."""

from dataclasses import replace

import pytest
from fakes import results

from emojitune.evaluation.metrics import Comparison
from emojitune.reporting.text import evaluation_findings, extremes
from emojitune.stats import rate_of_count


@pytest.mark.parametrize(
    ("p", "right", "beaten"), [(0.01, 180, True), (0.3, 180, False), (0.01, 100, False), (1, 130, False)]
)
def test_the_ngram_model_is_beaten_only_where_chance_would_not_do_it(p, right, beaten):
    found = results()
    tuned = found["finetuned"]
    scores = replace(tuned.scores, exact_accuracy=rate_of_count(right, 250))
    found["finetuned"] = replace(tuned, scores=scores, against_ngram=Comparison(p, 250))
    said = " ".join(evaluation_findings(found))
    assert ("a far smaller tool may do" in said) != beaten
    where = "level with" if right == 130 else "points above" if right > 130 else "points below"
    assert f"{where} the n-gram model: McNemar's exact p = {p:.4f}" in said


def test_a_running_conversation_is_compared_with_the_same_tweets_alone():
    found = results()
    turns = found["finetuned"].conversations["strung"]
    alone = [replace(turn, alone=rate_of_count(9, 10)) for turn in turns]
    found["finetuned"].conversations["strung"] = alone
    said = " ".join(evaluation_findings(found))
    assert "exact accuracy is 72% from turn 2 on, and 90% for the same tweets alone" in said


def test_only_parts_with_some_replies_are_called_best_or_worst():
    rates = [("one", rate_of_count(1, 1)), ("low", rate_of_count(1, 9)), ("high", rate_of_count(8, 9))]
    assert [[name for name, _ in side] for side in extremes(rates)] == [["high"], ["low"]]
    assert extremes([("a", rate_of_count(9, 9)), ("b", rate_of_count(5, 5))]) == ([], [])  # nothing to choose between
