"""Kiln, through its command line as a user has it: one `kiln build`, and one `kiln search` a setting.

The binary is $KILN, or target/release/kiln. `kiln search` reads the index, warms up and repeats by its own rules, for
some eight seconds a setting: its rows are its median rate and its percentiles. Answers are judged as everybody's are.
A build is the whole command: it includes reading the HDF5 file and writing the index, which no other row's does.
"""

import json
import os
import subprocess
from pathlib import Path

from . import K, Engine as Base, Measurement, Unavailable, size_of

USAGE_ERROR = 2  # exit code for a flag or a value that this version does not have
KILN = os.environ.get("KILN") or str(Path(__file__).resolve().parents[3] / "target/release/kiln")

VAMANA = ("--index", "vamana")
INLINE, COMPACT = (*VAMANA, "--layout", "inline"), (*VAMANA, "--layout", "compact")
SEARCH_LISTS = (10, 15, 20, 30, 40, 60, 80, 120, 200, 320)
PROBES, RERANKS = (8, 16, 32, 64, 128), (50, 150)


class Engine(Base):
    environment = "driver"
    peer = False  # `kiln peer` is
    rows = {
        "kiln-inline-r32": {"build": (*INLINE, "--max-degree", "32")},
        "kiln-inline-r64": {"build": (*INLINE, "--max-degree", "64")},
        "kiln-compact-r64": {"build": (*COMPACT, "--max-degree", "64", "--method", "insert")},
        "kiln-compact-r64-partition": {"build": (*COMPACT, "--max-degree", "64", "--method", "partition")},
        "kiln-ivf": {"build": ("--index", "ivf-pq")},
    }

    def version(self):
        if not os.access(KILN, os.X_OK):
            raise Unavailable(f"{KILN} is not a program: run `cargo build --release`, or set KILN")
        return kiln("--version").strip()

    def build(self, job):
        self.index = os.path.join(job.folder, "index.kiln")
        self.has_batch = True
        flags = ("--threads", str(job.threads), "--json", "-")
        report = json.loads(kiln("build", "--dataset", job.dataset, *self.params["build"], "--out", self.index, *flags))
        rows, dim = job.base.shape
        vectors = rows * dim * {"u8": 1, "i8": 1, "f16": 2, "f32": 4}[report["dtype"]]
        return {"extra_rss_bytes": report["peak_rss_bytes"] - vectors, "stages": report["seconds"]}

    def index_bytes(self, folder):
        return size_of(self.index)

    def settings(self):
        if "ivf-pq" in self.params["build"]:
            return [{"nprobe": nprobe, "rerank": rerank} for nprobe in PROBES for rerank in RERANKS]
        return [{"search-list": size} for size in SEARCH_LISTS]

    def measure(self, job, setting, with_latency):
        import numpy as np

        answers = os.path.join(job.folder, "answers.npy")
        flags = [word for name, value in setting.items() for word in (f"--{name}", str(value))]
        command = ["search", self.index, "--queries", job.dataset, *flags]
        command += ["--k", str(K), "--threads", "1", "--out", answers, "--json", "-"]
        batch = self.search_batch(command)
        one_by_one = json.loads(kiln(*command)) if with_latency or batch is None else None
        qps = (batch or one_by_one)["qps"]["median"]
        latency_us = {name: one_by_one["latency_us"][name] for name in ("p50", "p99")} if with_latency else None
        mode = "batch" if batch else "one by one"
        return Measurement(np.load(answers), [len(job.queries) / qps], None, latency_us, mode)

    def search_batch(self, command):
        """The figures of the whole query set in one call; None where this version searches one query a call only."""
        if not self.has_batch:
            return None
        try:
            return json.loads(kiln(*command, "--batch"))
        except Unavailable as reason:
            if "--batch" not in str(reason):
                raise
            self.has_batch = False
            return None


def kiln(*arguments):
    """Runs Kiln and returns its standard output."""
    done = subprocess.run([KILN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = done.stderr.strip()
    if done.returncode == USAGE_ERROR:
        raise Unavailable(said.splitlines()[0] if said else f"kiln {arguments[0]}: usage error")
    if done.returncode != 0:
        raise RuntimeError(f"kiln {' '.join(arguments)}: exit code {done.returncode}: {said[-500:]}")
    return done.stdout
