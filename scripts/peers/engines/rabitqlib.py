"""SymphonyQG, from RaBitQ-Library: a graph whose nodes hold their neighbours' 1-bit codes."""

import os

from . import K, Engine as Base, size_of


class Engine(Base):
    distribution = "rabitqlib"
    rows = {"symphonyqg": {"max_degree": 32, "ef_construction": 200}}  # the library's documented example

    def build(self, job):
        import rabitqlib

        self.index = rabitqlib.SymqgIndex(job.base.shape[1], self.params["max_degree"], "l2")
        self.index.build(job.base, self.params["ef_construction"], job.threads)

    def index_bytes(self, folder):
        path = os.path.join(folder, "symqg")
        self.index.save(path)
        return size_of(path)

    def settings(self):
        return [{"ef": ef} for ef in (10, 20, 30, 40, 60, 80, 120, 160, 240, 320, 400)]

    def search(self, queries):
        return self.index.search_batch(queries, K, self.setting["ef"], 1)[0]
