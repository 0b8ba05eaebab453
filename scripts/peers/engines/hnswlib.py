"""hnswlib: HNSW, by its authors."""

import os

from . import Engine as Base, size_of


class Engine(Base):
    distribution = "hnswlib"
    rows = {"hnswlib": {"m": 16, "ef_construction": 200}}
    grid = {"ef": (10, 15, 20, 30, 40, 60, 80, 120, 200, 300)}

    def build(self, job):
        import hnswlib

        rows, dim = job.base.shape
        self.index = hnswlib.Index("l2", dim)
        self.index.init_index(rows, M=self.params["m"], ef_construction=self.params["ef_construction"])
        self.index.add_items(job.base, num_threads=job.threads)

    def index_bytes(self, folder):
        path = os.path.join(folder, "hnsw")
        self.index.save_index(path)
        return size_of(path)

    def use(self, setting, *asked):
        super().use(setting, *asked)
        self.index.set_ef(setting["ef"])

    def search(self, queries):
        return self.index.knn_query(queries, self.k, num_threads=self.threads)[0]
