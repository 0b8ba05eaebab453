"""RaBitQ-Library: SymphonyQG, a graph whose nodes hold their neighbours' 1-bit codes; and its codes in lists and in HNSW."""

import os

from . import Engine as Base, size_of
from .faiss import lists

EFFORTS = (10, 20, 30, 40, 60, 80, 120, 160, 240, 320, 400)


class Engine(Base):
    distribution = "rabitqlib"
    only_named = ("rabitqlib-ivf", "rabitqlib-hnsw")
    rows = {
        "symphonyqg": {"max_degree": 32, "ef_construction": 200},  # the library's documented example
        # Without `num_clusters`, as many lists as Faiss is given. `nbits` 32 keeps the rows, and re-ranks with them.
        "rabitqlib-ivf": {"nbits": 7},
        "rabitqlib-hnsw": {"m": 16, "ef_construction": 200, "nbits": 7, "num_clusters": 16},
    }
    grid = {"ef": EFFORTS}
    optional = ("num_clusters",)

    def __init__(self, params):
        super().__init__(params)
        if self.is_ivf():
            self.grid = {"nprobe": (2, 4, 8, 16, 32, 64, 128)}

    def is_ivf(self):
        return "m" not in self.params and "max_degree" not in self.params

    def build(self, job):
        import rabitqlib

        rows, dim = job.base.shape
        params = self.params
        if "max_degree" in params:
            self.index = rabitqlib.SymqgIndex(dim, params["max_degree"], "l2")
            self.index.build(job.base, params["ef_construction"], job.threads)
            return
        clusters = params.setdefault("num_clusters", lists(rows))
        if self.is_ivf():
            self.index = rabitqlib.IvfIndex(dim, rows, clusters, params["nbits"], "l2")
        else:
            graph = (params["m"], params["ef_construction"])
            self.index = rabitqlib.HnswIndex(dim, rows, *graph, params["nbits"], "l2")
        exact = rabitqlib.FinalAssignmentMode.Exact
        clustering = rabitqlib.RaBitQKMeans(dim, clusters, num_threads=job.threads, final_assignment=exact)
        clustering.train(job.base)
        self.index.build(job.base, clustering.centroids, clustering.assignments, job.threads)

    def index_bytes(self, folder):
        path = os.path.join(folder, "rabitqlib")
        self.index.save(path)
        return size_of(path)

    def search(self, queries):
        if self.is_ivf():
            return self.index.search(queries, self.k, self.setting["nprobe"], None, self.threads)[0]
        effort = max(self.setting["ef"], self.k)
        if "max_degree" in self.params:
            return self.index.search_batch(queries, self.k, effort, self.threads)[0]
        return self.index.search(queries, self.k, effort, self.threads)[0]
