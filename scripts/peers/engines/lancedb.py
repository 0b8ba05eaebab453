"""LanceDB: inverted lists of product-quantised residuals, and rows to re-rank with, all in files of its own.

Files are read through the page cache. Threads are those of its own pool; the processors that the process is left decide
how many of them work.
"""

import os

from . import Engine as Base, size_of


class Engine(Base):
    distribution = "lancedb"
    by_default = False
    residency = "ssd"
    optional = ("num_partitions", "num_sub_vectors", "max_iterations", "sample_rate")
    rows = {"lancedb": {"num_bits": 8}}
    grid = {"nprobes": (2, 4, 8, 16, 32, 64), "refine_factor": (2, 5, 10)}

    def build(self, job):
        import lancedb
        import numpy as np
        import pyarrow as pa
        from lancedb.index import IvfPq

        rows, dim = job.base.shape
        self.params.setdefault("num_partitions", max(1, round(rows**0.5)))  # the library's own choice
        self.params.setdefault("num_sub_vectors", dim // 8 if dim % 8 == 0 else 1)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(job.base).reshape(-1)), dim)
        self.folder = os.path.join(job.folder, "lance")
        database = lancedb.connect(self.folder)
        self.table = database.create_table("rows", pa.table({"id": pa.array(np.arange(rows)), "vector": vectors}))
        self.table.create_index("vector", config=IvfPq(distance_type="l2", **self.params))

    def index_bytes(self, folder):
        return size_of(self.folder)

    def ask(self, queries):
        search = self.table.search(queries, vector_column_name="vector").nprobes(self.setting["nprobes"])
        return search.refine_factor(self.setting["refine_factor"]).limit(self.k).select(["id", "_distance"]).to_arrow()

    def search(self, queries):
        import numpy as np

        if len(queries) == 1:
            return self.search_one(queries[0])[None]
        found = self.ask(queries)
        of, ids = found["query_index"].to_numpy(), found["id"].to_numpy()
        starts = np.searchsorted(of, np.arange(len(queries) + 1))
        return [ids[start:end] for start, end in zip(starts, starts[1:])]

    def search_one(self, query):
        return self.ask(query)["id"].to_numpy()
