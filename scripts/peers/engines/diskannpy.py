"""DiskANN's Vamana in memory. Its C++ core takes bytes as they are."""

import os

from . import Engine as Base, size_of

SEARCH_LISTS = (10, 15, 20, 30, 40, 60, 80, 120, 200)


class Engine(Base):
    distribution = "diskannpy"
    dtypes = ("uint8", "int8", "float32")
    rows = {"diskannpy": {"graph_degree": 64, "complexity": 100, "alpha": 1.2}}
    grid = {"complexity": SEARCH_LISTS}

    def build(self, job):
        import diskannpy

        diskannpy.build_memory_index(job.base, "l2", job.folder, num_threads=job.threads, **self.params)
        self.files = [os.path.join(job.folder, name) for name in ("ann", "ann.data")]  # the graph and the rows
        # Opened with two threads or more: with one the library has been seen to hang.
        threads = max(2, os.cpu_count() or 2)
        self.index = diskannpy.StaticMemoryIndex(job.folder, threads, initial_search_complexity=max(SEARCH_LISTS))

    def index_bytes(self, folder):
        return sum(size_of(path) for path in self.files)

    def search(self, queries):
        # One query, too: the library's `search` of one repeats the nearest k times.
        complexity = max(self.setting["complexity"], self.k)
        return self.index.batch_search(queries, self.k, complexity, num_threads=self.threads).identifiers
