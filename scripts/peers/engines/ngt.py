"""NGT's ONNG: a graph of nearest neighbours whose edges are chosen anew, in and out. Its quantised graphs are made by a
program that the Python package does not bring.
"""

import os

from . import Engine as Base, size_of


class Engine(Base):
    distribution = "ngt"
    by_default = False
    rows = {"ngt": {"edge_size_for_creation": 100, "outgoing": 10, "incoming": 120}}
    grid = {"epsilon": (-0.05, 0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2)}

    def build(self, job):
        import ngtpy

        first, self.path = (os.path.join(job.folder, name) for name in ("anng", "onng"))
        edges = self.params["edge_size_for_creation"]
        # -2: as many edges as the optimiser below leaves are searched.
        ngtpy.create(first, job.base.shape[1], edge_size_for_creation=edges, edge_size_for_search=-2)
        index = ngtpy.Index(first)
        index.batch_insert(job.base, num_threads=job.threads)
        index.save()
        index.close()
        optimizer = ngtpy.Optimizer(log_disabled=True)
        optimizer.set(num_of_outgoings=self.params["outgoing"], num_of_incomings=self.params["incoming"])
        # The rest of what it can do searches for parameters, by queries of its own, for minutes.
        optimizer.set_processing_modes(True, False, False, False)
        optimizer.execute(first, self.path)
        self.index = ngtpy.Index(self.path, read_only=True)
        self.results = ngtpy.BatchResults

    def index_bytes(self, folder):
        return size_of(self.path)

    def use(self, setting, *asked):
        import threadpoolctl

        super().use(setting, *asked)
        self.index.set(epsilon=setting["epsilon"])
        self.limit = threadpoolctl.threadpool_limits(self.threads, user_api="openmp")

    def search(self, queries):
        found = self.results()
        self.index.batch_search(queries, found, self.k, with_distance=False)
        return found.get_ids()

    def search_one(self, query):
        return self.index.search(query, self.k, with_distance=False)
