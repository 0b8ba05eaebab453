"""Scalable Vector Search: Vamana over float32 rows."""

import os

from . import Engine as Base, size_of


class Engine(Base):
    distribution = "scalable-vs"
    rows = {"svs": {"graph_max_degree": 64, "window_size": 128, "alpha": 1.2}}
    grid = {"window": (10, 15, 20, 30, 40, 60, 80, 120, 200)}

    def build(self, job):
        import svs

        parameters = svs.VamanaBuildParameters(**self.params)
        self.index = svs.Vamana.build(parameters, job.base, svs.DistanceType.L2, job.threads)

    def index_bytes(self, folder):
        self.index.save(*(os.path.join(folder, name) for name in ("config", "graph", "data")))
        return size_of(folder)

    def use(self, setting, *asked):
        super().use(setting, *asked)
        self.index.num_threads = self.threads
        self.index.search_window_size = setting["window"]

    def search(self, queries):
        return self.index.search(queries, self.k)[0]
