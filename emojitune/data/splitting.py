"""Near duplicates, and a stratified split that keeps them on one side."""

import random
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from emojitune.data.samples import Sample

# Two texts above this Jaccard similarity of their character 3-grams are near duplicates: one word of them differs.
NEAR_DUPLICATE_SIMILARITY = 0.6

# Up to this length, only marks and white space may differ: another character in a text of five is another text.
SHORT_CHARACTERS = 12
_CHUNK = 512  # texts compared with all the others at once; it bounds the memory


@dataclass(frozen=True)
class NearDuplicate:
    """Two samples that share a text, or nearly: their indices, the two texts, and the similarity."""

    first: int
    second: int
    texts: tuple[str, str]
    similarity: float


def near_duplicates(texts: Sequence[str]) -> Iterator[tuple[int, int, float]]:
    """Every pair (i, j, similarity) of texts that are near duplicates, i < j. Exact: none is missed."""
    squeezed = ["".join(unicodedata.normalize("NFKC", text).split()) for text in texts]
    short = {_without_marks(text) for text in squeezed if len(text) <= SHORT_CHARACTERS}

    def features(text: str) -> set[str]:
        core = _without_marks(text)
        return {core} if core in short else {text[start : start + 3] for start in range(len(text) - 2)}

    # One row per text, one column per feature. By hand, since importing scikit-learn takes four times as long as this.
    column: dict[str, int] = {}
    rows = [[column.setdefault(feature, len(column)) for feature in features(text)] for text in squeezed]
    columns, ends = np.concatenate(rows), np.cumsum([0, *map(len, rows)])
    matrix = csr_array((np.ones(len(columns), np.int32), columns, ends))
    sizes = matrix.sum(axis=1)
    for start in range(0, len(texts), _CHUNK):
        shared = (matrix[start : start + _CHUNK] @ matrix[: start + _CHUNK].T).tocoo()
        later, earlier = shared.row + start, shared.col
        similarity = shared.data / (sizes[later] + sizes[earlier] - shared.data)
        near = (earlier < later) & (similarity > NEAR_DUPLICATE_SIMILARITY)
        yield from zip(earlier[near].tolist(), later[near].tolist(), similarity[near].tolist(), strict=True)


def _without_marks(text: str) -> str:
    """`text` without punctuation and symbols, or as it is where it has nothing else."""
    invisible = "\N{VARIATION SELECTOR-16}\N{ZERO WIDTH JOINER}"  # what emojis are joined with
    return "".join(char for char in text if unicodedata.category(char)[0] not in "PS" and char not in invisible) or text


def near_duplicate_samples(samples: Sequence[Sample]) -> Iterator[NearDuplicate]:
    """The near duplicates among the texts of different samples."""
    texts = [(index, text) for index, sample in enumerate(samples) for text in sample.texts]
    for i, j, similarity in near_duplicates([text for _, text in texts]):
        (first, text), (second, other) = texts[i], texts[j]
        if first != second:
            yield NearDuplicate(first, second, (text, other), round(similarity, 3))


def clusters_of(samples: Sequence[Sample]) -> list[list[int]]:
    """Indices of `samples` in clusters: those linked by near duplicates (identical texts included) are together."""
    pairs = ((pair.first, pair.second) for pair in near_duplicate_samples(samples))
    first, second = np.fromiter(pairs, np.dtype((np.int32, 2))).T  # there may be millions
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(samples), len(samples)))
    clusters: dict[int, list[int]] = defaultdict(list)
    for index, component in enumerate(connected_components(graph, directed=False)[1].tolist()):
        clusters[component].append(index)
    return list(clusters.values())


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
    held_out: set[int] = set()
    for clusters in strata.values():
        count = min(max(1, round(len(clusters) * validation_fraction)), len(clusters) - 1)  # 1 at least, if there are 2
        if count == 0:
            continue
        # One large cluster would be the whole validation split of its label.
        clusters = [cluster for cluster in clusters if len(cluster) <= count] or [min(clusters, key=len)]
        count = min(count, len(clusters))
        generator.shuffle(clusters)
        clusters.sort(key=lambda cluster: samples[cluster[0]].turns)
        # Evenly spaced, so that each number of turns gives its share; the start is random, or the shortest would gain.
        start = generator.random()
        for position in range(count):
            held_out.update(clusters[int((position + start) * len(clusters) / count)])
    train = [sample for index, sample in enumerate(samples) if index not in held_out]
    return train, [sample for index, sample in enumerate(samples) if index in held_out]
