"""Recall, by one rule for everybody: engines hand in ids, and are believed nothing else.

Distances are recomputed in float64 from the data set's own rows. An id is a hit if its distance is at most
d (1 + 1e-6) + 1e-6, where d is the true k-th distance: ties are hits. The same id again, or none, is a miss.
"""

TOLERANCE = 1e-6  # relative, and absolute


class Judge:
    def __init__(self, base, queries, truth, metric, block=1 << 22):
        """`base` (n, dim), `queries` (q, dim), `truth` (q, k): ids of the true nearest, nearest first.

        `block`: elements computed at a time, in float64; 32 MiB an array.
        """
        self.base, self.queries, self.metric, self.block = base, queries, metric, block
        self.shape = truth.shape
        self.limits = self.distances(truth[:, -1:]) * (1 + TOLERANCE) + TOLERANCE

    def recall(self, ids):
        """The mean share of hits among the k answers to a query."""
        import numpy as np

        if ids.shape != self.shape:
            raise ValueError(f"answers of shape {ids.shape} were handed in, not {self.shape}")
        ids = ids.astype(np.int64)
        real = (ids >= 0) & (ids < len(self.base))
        hits = self.distances(np.where(real, ids, 0)) <= self.limits
        return float(np.mean(hits & real & first_of_its_row(ids)))

    def distances(self, ids):
        """From every query to the rows `ids` (q, any): euclidean, not squared, or 1 - cos."""
        import numpy as np

        distances = np.empty(ids.shape, np.float64)
        step = max(1, self.block // (ids.shape[1] * self.base.shape[1]))
        for first in range(0, len(ids), step):
            block = slice(first, first + step)
            rows = self.base[ids[block]].astype(np.float64)
            queries = self.queries[block].astype(np.float64)[:, None, :]
            if self.metric == "angular":
                norms = np.linalg.norm(rows, axis=2) * np.linalg.norm(queries, axis=2)
                distances[block] = 1 - (rows * queries).sum(axis=2) / np.where(norms > 0, norms, 1)
            else:
                distances[block] = np.sqrt(np.square(rows - queries).sum(axis=2))
        return distances


def first_of_its_row(ids):
    """Whether each id stands in its row for the first time."""
    import numpy as np

    order = np.argsort(ids, axis=1, kind="stable")
    ordered = np.take_along_axis(ids, order, 1)
    first = np.ones(ids.shape, bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    unordered = np.empty_like(first)
    np.put_along_axis(unordered, order, first, 1)
    return unordered


def selftest():
    import numpy as np

    # One query at 0 on a line; rows 1 and 2 are a tie for the second place.
    base = np.array([[1], [2], [-2], [3], [4]], np.float32)
    judge = Judge(base, np.zeros((1, 1), np.float32), np.array([[0, 1]]), "euclidean")
    for ids, recall in (
        ([0, 1], 1.0),
        ([1, 0], 1.0),  # order is no matter
        ([0, 2], 1.0),  # a tie at the k-th distance is as good
        ([1, 2], 1.0),
        ([0, 3], 0.5),
        ([0, 0], 0.5),  # a duplicate counts once
        ([3, 3], 0.0),
        ([0, -1], 0.5),  # fewer answers than wanted
        ([0, 5], 0.5),  # not a row
    ):
        assert judge.recall(np.array([ids])) == recall, f"euclidean: {ids}"

    # The distance of bytes is not taken in bytes.
    judge = Judge(np.array([[250], [0], [9]], np.uint8), np.array([[5]], np.uint8), np.array([[2]]), "euclidean")
    assert judge.recall(np.array([[2]])) == 1.0 and judge.recall(np.array([[0]])) == 0.0, "bytes"

    # Angles do not see lengths: row 1 is row 0, longer.
    base = np.array([[1, 0], [5, 0], [0, 1], [0, 0]], np.float32)
    judge = Judge(base, np.array([[2, 1]], np.float32), np.array([[0]]), "angular")
    assert [judge.recall(np.array([[row]])) for row in range(4)] == [1.0, 1.0, 0.0, 0.0], "angular"

    # Within the tolerance, and beyond it.
    base = np.array([[1.0], [1 + 1e-6], [1 + 1e-5]], np.float64)
    judge = Judge(base, np.zeros((1, 1)), np.array([[0]]), "euclidean")
    assert [judge.recall(np.array([[row]])) for row in range(3)] == [1.0, 1.0, 0.0], "tolerance"

    # Many queries take several blocks.
    rng = np.random.default_rng(5)
    base, queries = rng.standard_normal((50, 8)), rng.standard_normal((23, 8))
    truth = np.argsort(np.square(base[None] - queries[:, None]).sum(axis=2), axis=1)[:, :10]
    judge = Judge(base, queries, truth, "euclidean", block=64)
    assert judge.recall(truth) == 1.0 and judge.recall(truth[:, ::-1]) == 1.0, "blocks"
    assert judge.recall(np.where(np.arange(10) < 5, truth, -1)) == 0.5, "half of the answers"
