"""Near-duplicates among many samples, found without comparing each with each."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from meddiff.lesions.appearance import Scalars
from meddiff.progress import Report, silent

EXACT = 10_000          # vectors up to which every one is looked at; beyond, a graph is searched
_LINKS, _GROWTH = 32, 80  # of the graph: neighbours of a vector, and candidates weighed when one is added
_SOUGHT = 64              # candidates weighed in a search
_BLOCK = 256              # samples looked up together


def repeats(identity: Sequence[Scalars], radius: float, report: Report = silent) -> NDArray[np.bool_]:
    """Whether a lesion of each sample lies nearer than `radius` to one of an earlier sample that is no repeat itself.

    Up to `EXACT` lesions that are no repeats the answer is exact. Beyond, the nearest of them is sought in a hierarchical
    navigable small-world graph (Malkov and Yashunin 2018; faiss), whose cost a sample grows like the logarithm of their number.
    One thread and a fixed order: the same samples give the same answer.

    Args:
        identity: for each sample its lesions' vectors `[l, D]`; l may be 0.
        radius: Euclidean; 0 finds none.
        report: called after each few samples.

    Returns:
        `[N]` bool.
    """
    repeated = np.zeros(len(identity), dtype=bool)
    if radius <= 0 or not len(identity):
        return repeated
    with _one_thread():
        index: faiss.Index = faiss.IndexFlatL2(identity[0].shape[1])
        for start in range(0, len(identity), _BLOCK):
            block, flags = identity[start:start + _BLOCK], repeated[start:start + _BLOCK]
            vectors, ends = np.concatenate(block), np.cumsum([0, *map(len, block)])
            old, near = _near(index, vectors, radius), cdist(vectors, vectors) < radius
            fresh = np.zeros(len(vectors), dtype=bool)
            for i, (first, last) in enumerate(pairwise(ends.tolist())):
                flags[i] = old[first:last].any() or near[first:last, fresh].any()
                fresh[first:last] = not flags[i]
            index = _with(index, vectors[fresh])
            report(start + len(block), len(identity), {})
    return repeated


def _near(index: faiss.Index, vectors: Scalars, radius: float) -> NDArray[np.bool_]:
    if not index.ntotal or not len(vectors):
        return np.zeros(len(vectors), dtype=bool)
    squared, _ = index.search(vectors.astype(np.float32), 1)
    return np.asarray(squared[:, 0] < radius**2)


def _with(index: faiss.Index, vectors: Scalars) -> faiss.Index:
    """The index with more vectors; it becomes a graph when it outgrows `EXACT`."""
    if index.ntotal <= EXACT < index.ntotal + len(vectors):
        graph = faiss.IndexHNSWFlat(index.d, _LINKS)
        graph.hnsw.efConstruction, graph.hnsw.efSearch = _GROWTH, _SOUGHT
        graph.add(index.reconstruct_n(0, index.ntotal))
        index = graph
    index.add(vectors.astype(np.float32))
    return index


@contextmanager
def _one_thread() -> Iterator[None]:
    """faiss on one thread: several add to a graph in changing order."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
