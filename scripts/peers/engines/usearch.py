"""USearch: HNSW over float32 rows."""

import os

from . import Engine as Base, size_of


class Engine(Base):
    distribution = "usearch"
    rows = {"usearch": {"connectivity": 16, "expansion_add": 200}}
    grid = {"expansion": (10, 15, 20, 30, 40, 60, 80, 120, 200, 300)}

    def build(self, job):
        import numpy as np
        from usearch.index import Index

        rows, dim = job.base.shape
        # Without a type of its own it would store bf16, and could not be asked for exact neighbours.
        self.index = Index(ndim=dim, metric="l2sq", dtype="f32", **self.params)
        self.index.add(np.arange(rows), job.base, threads=job.threads)

    def index_bytes(self, folder):
        path = os.path.join(folder, "usearch")
        self.index.save(path)
        return size_of(path)

    def use(self, setting, *asked):
        super().use(setting, *asked)
        self.index.expansion_search = setting["expansion"]

    def search(self, queries):
        return self.index.search(queries, self.k, threads=self.threads).keys

    def search_one(self, query):
        return self.index.search(query, self.k, threads=1).keys
