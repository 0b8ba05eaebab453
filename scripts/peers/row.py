"""A row of engines/ as a peer of `kiln bench --config`: `row.py hnswlib`, in the environment of its library.

    [[engine]]
    peer = "hnswlib"
    command = ["scripts/peers/.venvs/hnswlib/bin/python", "scripts/peers/row.py", "hnswlib"]
    build = { m = 16, ef_construction = 200 }
    search = { ef = [10, 20, 40, 80] }

Build parameters replace those of the row; search parameters are those of the row's settings, all of them.
"""

import argparse

import engines
import protocol


class Row(protocol.Engine):
    def __init__(self, name):
        kind = engines.catalogue()[name].engine
        self.engine = kind(kind.rows[name])
        self.dtypes = tuple(kind.dtypes)

    def version(self):
        return self.engine.version()

    def build(self, base, metric, params, threads, folder):
        if metric == "ip":
            raise ValueError("the engines of this folder compare by l2 or cosine")
        self.angular = metric == "cosine"
        self.engine.params.update(params)
        metric = "angular" if self.angular else "euclidean"
        job = engines.Job("", self.at_unit_length(base), None, metric, threads, folder)
        self.engine.build(job)
        return None

    def at_unit_length(self, rows):
        """As the engines are given angular sets: L2 ranks there as the angle does."""
        import numpy as np

        if not self.angular:
            return rows
        rows = np.asarray(rows, np.float64)
        norms = np.linalg.norm(rows, axis=-1, keepdims=True)
        return (rows / np.where(norms > 0, norms, 1)).astype(np.float32)

    def use(self, params, k, threads):
        if k != engines.K or threads != 1:
            raise ValueError(f"the engines of this folder search for {engines.K} neighbours on one thread")
        self.engine.use(params)

    def search(self, query):
        return self.engine.search_one(self.at_unit_length(query)).reshape(-1)

    def search_batch(self, queries):
        return self.engine.search(self.at_unit_length(queries))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Be a peer; started by kiln bench --config.")
    parser.add_argument("row", help="name of the row, of compare.py --list")
    protocol.serve(Row(parser.parse_args().row))
