"""DiskANN's Vamana in memory. Its C++ core takes bytes as they are."""

import os

from . import K, Engine as Base, size_of

SEARCH_LISTS = (10, 15, 20, 30, 40, 60, 80, 120, 200)


class Engine(Base):
    distribution = "diskannpy"
    dtypes = ("uint8", "int8", "float32")
    rows = {"diskannpy": {"graph_degree": 64, "complexity": 100, "alpha": 1.2}}

    def build(self, job):
        import diskannpy

        diskannpy.build_memory_index(job.base, "l2", job.folder, num_threads=job.threads, **self.params)
        self.files = [os.path.join(job.folder, name) for name in ("ann", "ann.data")]  # the graph and the rows
        # Opened with two threads: with one the library has been seen to hang.
        self.index = diskannpy.StaticMemoryIndex(job.folder, 2, initial_search_complexity=max(SEARCH_LISTS))

    def index_bytes(self, folder):
        return sum(size_of(path) for path in self.files)

    def settings(self):
        return [{"complexity": complexity} for complexity in SEARCH_LISTS]

    def search(self, queries):
        return self.index.batch_search(queries, K, self.setting["complexity"], num_threads=1).identifiers

    def search_one(self, query):
        return self.index.search(query, K, self.setting["complexity"]).identifiers
