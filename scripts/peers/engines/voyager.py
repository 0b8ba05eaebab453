"""Voyager: HNSW over float32 rows, from hnswlib's code."""

import os

from . import Engine as Base, size_of


class Engine(Base):
    distribution = "voyager"
    by_default = False
    writes_to_rows = True
    rows = {"voyager": {"m": 16, "ef_construction": 200}}
    grid = {"ef": (10, 15, 20, 30, 40, 60, 80, 120, 200, 300)}

    def build(self, job):
        import voyager

        rows, dim = job.base.shape
        m, effort = self.params["m"], self.params["ef_construction"]
        self.index = voyager.Index(voyager.Space.Euclidean, dim, M=m, ef_construction=effort, max_elements=rows)
        self.index.add_items(job.base, num_threads=job.threads)

    def index_bytes(self, folder):
        path = os.path.join(folder, "voyager")
        self.index.save(path)
        return size_of(path)

    def search(self, queries):
        # It refuses to look for fewer than k.
        effort = max(self.setting["ef"], self.k)
        return self.index.query(queries, self.k, num_threads=self.threads, query_ef=effort)[0]
