"""The stratified split into training and validation samples."""

import random
from collections import defaultdict
from collections.abc import Sequence

from emojitune.dataset import Sample, clusters_of


def split(samples: Sequence[Sample], validation_fraction: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Samples to learn from and samples to measure with, each in the order given.

    Stratified by label, and within a label by the number of turns. Near duplicates stay together: on the training side
    when their labels differ. A label with two or more clusters of its own has some on both sides. The same seed gives
    the same split on every machine.
    """
    generator = random.Random(seed)
    strata: dict[str, list[list[int]]] = defaultdict(list)
    for cluster in clusters_of(samples):
        if len({samples[index].label for index in cluster}) == 1:
            strata[samples[cluster[0]].label].append(cluster)
    held_back: set[int] = set()
    for clusters in strata.values():
        count = min(max(1, round(len(clusters) * validation_fraction)), len(clusters) - 1)
        if count == 0:
            continue
        # One large cluster would be the whole validation split of its label.
        clusters = [cluster for cluster in clusters if len(cluster) <= count] or [min(clusters, key=len)]
        count = min(count, len(clusters))
        generator.shuffle(clusters)
        clusters.sort(key=lambda cluster: samples[cluster[0]].turns)
        # Evenly spaced, so that each number of turns gives its share; the start is random, or the shortest would gain.
        start = generator.random()
        for place in range(count):
            held_back.update(clusters[int((place + start) * len(clusters) / count)])
    train = [sample for index, sample in enumerate(samples) if index not in held_back]
    return train, [sample for index, sample in enumerate(samples) if index in held_back]
