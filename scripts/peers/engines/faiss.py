"""Faiss: all rows one by one, inverted lists of several codes, and HNSW.

The row's `factory` is Faiss's own description of an index, in which {nlist}, {m} and {dim} stand for what follows from the
rows.
"""

import math
import os

from . import Engine as Base, size_of

PROBES = (2, 4, 8, 16, 32, 64, 128)


def lists(rows):
    """A power of two near 2.3 sqrt(rows): 2,048 for 737 thousand, 512 for 53 thousand."""
    return 2 ** round(math.log2(2.3 * math.sqrt(rows)))


def sub_spaces(dim):
    """The largest divisor of `dim` up to dim / 2 and 96: 64 of 128, 96 of 384."""
    return max(m for m in range(1, max(min(dim // 2, 96), 1) + 1) if dim % m == 0)


class Engine(Base):
    distribution = "faiss-cpu"
    only_named = ("faiss-flat", "faiss-ivf-pq", "faiss-ivf-rabitq")
    rows = {
        "faiss-flat": {"factory": "Flat"},
        # 8-bit codes alone, without polysemous training ("np"), which takes minutes and which nothing here uses.
        "faiss-ivf-pq": {"factory": "IVF{nlist},PQ{m}np"},
        "faiss-ivf": {"factory": "IVF{nlist},PQ{m}x4fs,RFlat"},
        # 1-bit codes of rotated rows.
        "faiss-ivf-rabitq": {"factory": "RR{dim},IVF{nlist},RaBitQfs,RFlat"},
        "faiss-hnsw": {"factory": "HNSW{m},Flat", "m": 16, "ef_construction": 200},
    }

    def __init__(self, params):
        super().__init__(params)
        factory = self.params["factory"]
        if "HNSW" in factory:
            self.grid = {"ef": (10, 15, 20, 30, 40, 60, 80, 120, 200, 300)}
        elif "IVF" in factory:
            self.grid = {"nprobe": PROBES}
            if "RFlat" in factory:
                self.grid["k_factor"] = (4, 10, 25)

    def build(self, job):
        # What threads that are started for single queries find; those of a call are set when it is prepared.
        os.environ["OMP_NUM_THREADS"] = "1"
        import faiss

        self.faiss = faiss
        faiss.omp_set_num_threads(job.threads)
        rows, dim = job.base.shape
        sizes = {"nlist": lists(rows), "dim": dim, "m": sub_spaces(dim)}
        self.params["factory"] = self.params["factory"].format(**(sizes | self.params))
        self.index = faiss.index_factory(dim, self.params["factory"])
        if "ef_construction" in self.params:
            self.index.hnsw.efConstruction = self.params["ef_construction"]
        if not self.index.is_trained:
            self.index.train(job.base)
        self.index.add(job.base)

    def index_bytes(self, folder):
        path = os.path.join(folder, "faiss")
        self.faiss.write_index(self.index, path)
        return size_of(path)

    def use(self, setting, *asked):
        super().use(setting, *asked)
        self.faiss.omp_set_num_threads(self.threads)
        self.search_params = self.parameters(self.index)

    def parameters(self, index):
        """The setting as Faiss takes it: nested as the index is."""
        faiss = self.faiss
        index = faiss.downcast_index(index)
        if isinstance(index, faiss.IndexRefine):
            below = self.parameters(index.base_index)
            return faiss.IndexRefineSearchParameters(k_factor=self.setting["k_factor"], base_index_params=below)
        if isinstance(index, faiss.IndexPreTransform):
            return faiss.SearchParametersPreTransform(index_params=self.parameters(index.index))
        if isinstance(index, faiss.IndexHNSW):
            return faiss.SearchParametersHNSW(efSearch=self.setting["ef"])
        if isinstance(index, faiss.IndexIVF):
            return faiss.SearchParametersIVF(nprobe=self.setting["nprobe"])
        return None

    def search(self, queries):
        return self.index.search(queries, self.k, params=self.search_params)[1]
