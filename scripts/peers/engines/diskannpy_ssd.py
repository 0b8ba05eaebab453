"""DiskANN's index on the drive: Vamana in pages of the file, PQ codes in memory, nodes cached by visits.

A setting names the list size and may name `threads` (1) and `memory_bytes`: as many nodes are cached as fit beside the
codes; without it, none. Pages a query are the kernel's own count.
"""

import os
import struct
from pathlib import Path

from . import Engine as Base, size_of
from .diskannpy import SEARCH_LISTS

GIB = 1 << 30
SAMPLE_CACHE, NO_CACHE = 1, 0  # cache_mechanism
SAMPLED = 5000  # queries that choose what is cached; the library's own sample takes minutes
FILES = ("ann_disk.index", "ann_pq_compressed.bin", "ann_pq_pivots.bin", "ann_metadata.bin", "ann_sample_data.bin")
COMPLETE = "complete.txt"


class Engine(Base):
    environment = "diskannpy"
    distribution = "diskannpy"
    by_default = False  # it builds for minutes, and searches another kind of memory than the others do
    processors = 2
    residency = "ssd"
    optional = ("memory_bytes",)
    dtypes = ("uint8", "int8", "float32")
    rows = {"diskannpy-ssd": {"graph_degree": 64, "complexity": 100, "code_bytes": 32, "beam_width": 4}}
    grid = {"complexity": SEARCH_LISTS}

    def build(self, job):
        import diskannpy

        for old in Path(job.folder).iterdir():
            if old.is_file():
                old.unlink()  # what a crash left
        rows, _ = job.base.shape
        # The library divides the memory by the rows and rounds down: a little more, so that no byte is lost.
        codes = rows * self.params["code_bytes"] * 1.005 / GIB
        diskannpy.build_disk_index(
            job.base,
            "l2",
            job.folder,
            complexity=self.params["complexity"],
            graph_degree=self.params["graph_degree"],
            search_memory_maximum=codes,
            build_memory_maximum=64.0,
            num_threads=job.threads,
        )
        cut_sample(Path(job.folder) / "ann_sample_data.bin", SAMPLED, job.base.dtype.itemsize)
        Path(job.folder, COMPLETE).write_text(self.stamp(job))
        self.opened_by(job)

    def reopen(self, job):
        stamp = Path(job.folder) / COMPLETE
        if not stamp.is_file() or stamp.read_text() != self.stamp(job):
            return False
        self.opened_by(job)
        return True

    def stamp(self, job):
        return f"{self.version()} {self.params} {self.file_of(job.base)} {job.base.shape} {job.base.dtype}"

    @staticmethod
    def file_of(base):
        """Rows that were changed in memory have none, and nothing is opened again for them."""
        file = getattr(base, "filename", None)
        return os.path.abspath(file) if file else "memory"

    def opened_by(self, job):
        self.folder, self.index, self.memory = job.folder, None, None
        self.shape, self.itemsize = job.base.shape, job.base.dtype.itemsize

    def index_bytes(self, folder):
        return sum(size_of(os.path.join(self.folder, name)) for name in FILES[:4])

    def cached_nodes(self):
        """How many nodes fit into the memory beside the codes."""
        if self.memory is None:
            return 0
        rows, dim = self.shape
        node = dim * self.itemsize + 4 * (self.params["graph_degree"] + 1)
        return max(0, min(rows, (self.memory - self.code_bytes()) // node))

    def code_bytes(self):
        return size_of(os.path.join(self.folder, "ann_pq_compressed.bin"))

    def serving_bytes(self):
        _, dim = self.shape
        node = dim * self.itemsize + 4 * (self.params["graph_degree"] + 1)
        return self.code_bytes() + self.cached_nodes() * node

    def use(self, setting, *asked):
        import diskannpy

        memory = setting.get("memory_bytes")
        if self.index is None or memory != self.memory:
            self.index, self.memory = None, memory
            nodes = self.cached_nodes()
            # Opened with two threads or more: with one the library has been seen to hang.
            mechanism, threads = SAMPLE_CACHE if nodes else NO_CACHE, max(2, os.cpu_count() or 2)
            self.index = diskannpy.StaticDiskIndex(self.folder, threads, nodes, cache_mechanism=mechanism)
        super().use(setting, *asked)

    def search(self, queries):
        return self.answers(queries, self.setting.get("threads", self.threads))

    def search_one(self, query):
        return self.answers(query[None], 1)[0]

    def answers(self, queries, threads):
        # Of one query, too: the library's `search` of one repeats the nearest k times.
        complexity, beam = max(self.setting["complexity"], self.k), self.params["beam_width"]
        return self.index.batch_search(queries, self.k, complexity, num_threads=threads, beam_width=beam).identifiers

    def timed_search(self, queries):
        before = kernel_read_bytes()
        told = super().timed_search(queries)
        after = kernel_read_bytes()
        self.pages = None if before is None else (after - before) / 4096 / len(queries)
        return told

    def measure(self, job, setting, with_latency):
        self.pages = None
        measured = super().measure(job, setting, with_latency)
        return measured._replace(pages=self.pages, serving_bytes=self.serving_bytes())


def kernel_read_bytes():
    """Bytes that this process has had fetched from drives; None where the kernel does not tell."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes:")), None)


def cut_sample(path, most, itemsize):
    """Keeps the first `most` rows of a file in DiskANN's format: u32 rows, u32 dimensions, the rows."""
    with open(path, "r+b") as file:
        rows, dim = struct.unpack("<II", file.read(8))
        if rows > most:
            file.seek(0)
            file.write(struct.pack("<I", most))
            file.truncate(8 + most * dim * itemsize)
