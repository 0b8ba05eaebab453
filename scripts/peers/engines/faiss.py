"""Faiss: inverted lists with 4-bit fast-scan codes and exact re-ranking, and HNSW."""

import math
import os

from . import K, Engine as Base, size_of


def lists(rows):
    """A power of two near 2.3 sqrt(rows): 2,048 for 737 thousand, 512 for 53 thousand."""
    return 2 ** round(math.log2(2.3 * math.sqrt(rows)))


def sub_spaces(dim):
    """The largest divisor of `dim` up to dim / 2 and 96: 64 of 128, 96 of 384."""
    return max(m for m in range(1, min(dim // 2, 96) + 1) if dim % m == 0)


class Engine(Base):
    distribution = "faiss-cpu"
    rows = {
        "faiss-ivf": {"kind": "ivf"},
        "faiss-hnsw": {"kind": "hnsw", "m": 16, "ef_construction": 200},
    }

    def build(self, job):
        import faiss

        self.faiss = faiss
        faiss.omp_set_num_threads(job.threads)
        rows, dim = job.base.shape
        if self.params["kind"] == "ivf":
            self.params["factory"] = f"IVF{lists(rows)},PQ{sub_spaces(dim)}x4fs,RFlat"
            self.index = faiss.index_factory(dim, self.params["factory"])
            self.index.train(job.base)
        else:
            self.index = faiss.IndexHNSWFlat(dim, self.params["m"])
            self.index.hnsw.efConstruction = self.params["ef_construction"]
        self.index.add(job.base)

    def index_bytes(self, folder):
        path = os.path.join(folder, "faiss")
        self.faiss.write_index(self.index, path)
        return size_of(path)

    def settings(self):
        if self.params["kind"] == "hnsw":
            return [{"ef": ef} for ef in (10, 15, 20, 30, 40, 60, 80, 120, 200, 300)]
        probes = (2, 4, 8, 16, 32, 64, 128)
        return [{"nprobe": nprobe, "k_factor": factor} for nprobe in probes for factor in (4, 10, 25)]

    def use(self, setting):
        faiss = self.faiss
        faiss.omp_set_num_threads(1)
        if self.params["kind"] == "hnsw":
            self.search_params = faiss.SearchParametersHNSW(efSearch=setting["ef"])
        else:
            lists_params = faiss.SearchParametersIVF(nprobe=setting["nprobe"])
            self.search_params = faiss.IndexRefineSearchParameters(
                k_factor=setting["k_factor"], base_index_params=lists_params
            )

    def search(self, queries):
        return self.index.search(queries, K, params=self.search_params)[1]
