"""VSAG's HGraph: a graph walked by 8-bit codes, whose best are re-ranked by float32 rows."""

import json
import os

from . import Engine as Base, size_of


class Engine(Base):
    distribution = "pyvsag"
    by_default = False
    optional = ("alpha", "graph_type", "base_pq_dim")
    writes_to_rows = True  # it ends the process otherwise
    batches = False  # its one call is of one query
    rows = {"pyvsag": {"max_degree": 32, "ef_construction": 200, "base_quantization_type": "sq8_uniform"}}
    grid = {"ef": (10, 15, 20, 30, 40, 60, 80, 120, 200, 300)}

    def build(self, job):
        import numpy as np
        import pyvsag

        rows, dim = job.base.shape
        graph = {"use_reorder": True, "precise_quantization_type": "fp32", "build_thread_count": job.threads}
        description = {"dtype": "float32", "metric_type": "l2", "dim": dim, "index_param": graph | self.params}
        self.index = pyvsag.Index("hgraph", json.dumps(description))
        self.index.build(np.ascontiguousarray(job.base).reshape(-1), np.arange(rows), rows, dim)

    def index_bytes(self, folder):
        path = os.path.join(folder, "hgraph")
        self.index.save(path)
        return size_of(path)

    def use(self, setting, *asked):
        super().use(setting, *asked)
        self.search_params = json.dumps({"hgraph": {"ef_search": max(setting["ef"], self.k)}})

    def search(self, queries):
        return [self.search_one(query) for query in queries]

    def search_one(self, query):
        return self.index.knn_search(query, self.k, self.search_params)[0]
