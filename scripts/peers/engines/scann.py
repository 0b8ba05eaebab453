"""ScaNN: a partitioning tree, anisotropic codes of two dimensions a block, and exact re-ranking."""

import math

from . import K, Engine as Base, size_of


class Engine(Base):
    distribution = "scann"
    rows = {"scann": {"dimensions_per_block": 2}}
    grid = {"leaves": (3, 6, 10, 16, 25, 40, 60, 90, 150, 250), "reorder": (40, 100, 250)}

    def build(self, job):
        import scann

        # 2,000 leaves for 737 thousand rows, 500 for 53 thousand.
        leaves = max(100, 100 * round(2.33 * math.sqrt(len(job.base)) / 100))
        # Anisotropic codes are for inner products, which rank rows of unit length as the angle does.
        angular = job.metric == "angular"
        measure, threshold = ("dot_product", 0.2) if angular else ("squared_l2", float("nan"))
        self.params.update(num_leaves=leaves, distance=measure)
        self.index = (
            scann.scann_ops_pybind.builder(job.base, K, measure)
            .set_n_training_threads(job.threads)
            .tree(num_leaves=leaves, num_leaves_to_search=leaves // 20, training_sample_size=250_000)
            .score_ah(self.params["dimensions_per_block"], anisotropic_quantization_threshold=threshold)
            .reorder(100)
            .build()
        )

    def index_bytes(self, folder):
        self.index.serialize(folder)
        return size_of(folder)

    def settings(self):
        return [setting for setting in super().settings() if setting["leaves"] <= self.params["num_leaves"]]

    def use(self, setting, *asked):
        super().use(setting, *asked)
        self.index.set_num_threads(self.threads)

    def search(self, queries):
        several = self.threads > 1
        search = self.index.search_batched_parallel if several else self.index.search_batched
        return search(queries, self.k, self.setting["reorder"], self.setting["leaves"])[0]

    def search_one(self, query):
        return self.index.search(query, self.k, self.setting["reorder"], self.setting["leaves"])[0]
