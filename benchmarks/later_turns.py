"""Later turns as training samples of their own; docs/experiments.md says why step 3 does without."""

from collections.abc import Sequence

from emojitune.data.samples import Sample


def later_turns_as_single_turns(samples: Sequence[Sample]) -> list[Sample]:
    """Each turn of a conversation after its first, as a conversation of its own with the same system prompt."""
    single = []
    for sample in samples:
        head = [message for message in sample.messages if message["role"] == "system"]
        turns = sample.messages[len(head) :]
        single += [
            Sample(sample.number, (*head, *turns[start : start + 2]), sample.fields)
            for start in range(2, len(turns), 2)
            if turns[start + 1].get("weight", 1)
        ]
    return single
