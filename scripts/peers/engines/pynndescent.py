"""PyNNDescent: a graph by nearest-neighbour descent, pruned, searched from the leaves of a tree."""

import os
import pickle

from . import Engine as Base, size_of


class Engine(Base):
    distribution = "pynndescent"
    by_default = False
    writes_to_rows = True  # it is compiled for each kind of array anew: for the one that it is warmed up with
    overlaps = False  # searches write to one state of random numbers and marks
    rows = {"pynndescent": {"n_neighbors": 30, "pruning_degree_multiplier": 1.5, "diversify_prob": 1.0}}
    grid = {"epsilon": (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)}

    def warm_up(self):
        # It is compiled when it is first called, which takes minutes.
        import numpy as np

        rows = np.random.default_rng(0).random((4096, 16), dtype=np.float32)
        self.make(rows, 2).query(rows[:2], k=10)

    def make(self, rows, threads):
        import pynndescent

        # `n_jobs` is of the build; that searches may be parallel is chosen now, and by how much when they are made.
        more = dict(n_jobs=threads, parallel_batch_queries=True, random_state=1)
        made = pynndescent.NNDescent(rows, "euclidean", **more, **self.params)
        made.prepare()
        return made

    def build(self, job):
        self.index = self.make(job.base, job.threads)

    def index_bytes(self, folder):
        path = os.path.join(folder, "pynndescent")
        with open(path, "wb") as file:
            pickle.dump(self.index, file, pickle.HIGHEST_PROTOCOL)
        return size_of(path)

    def use(self, setting, *asked):
        import numba

        super().use(setting, *asked)
        numba.set_num_threads(min(self.threads, numba.config.NUMBA_NUM_THREADS))

    def search(self, queries):
        return self.index.query(queries, self.k, epsilon=self.setting["epsilon"])[0]
