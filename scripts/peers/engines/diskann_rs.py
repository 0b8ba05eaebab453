"""DiskANN's Rust crates: Vamana in memory, in the program of ../diskann_rs, which setup.sh builds.

The program reads the vectors, builds, searches and times itself; this asks it, in JSON lines. Answers come in a file.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from . import K, Engine as Base, Unavailable
from .diskannpy import SEARCH_LISTS

MANIFEST = Path(__file__).resolve().parents[1] / "diskann_rs" / "Cargo.toml"


class Engine(Base):
    dtypes = ("uint8", "int8", "float32")
    peer = False  # its program keeps time itself
    rows = {"diskann-rs": {"max_degree": 64, "search_list": 100, "alpha": 1.2}}
    grid = {"search_list": SEARCH_LISTS}

    def version(self):
        import tomllib

        return tomllib.loads(MANIFEST.read_text())["dependencies"]["diskann"].removeprefix("=")

    def build(self, job):
        self.program = Program(job.base.filename, job.queries.filename)
        built = self.program.ask(do="build", threads=job.threads, **self.params)
        self.saved_bytes = built.pop("index_bytes")
        self.answers = os.path.join(job.folder, "answers.npy")
        return built

    def index_bytes(self, folder):
        return self.saved_bytes

    def use(self, setting, *asked):
        super().use(setting, *asked)
        self.program.follow()

    def timed_search(self, queries):
        import numpy as np

        told = self.program.ask(do="search", k=K, ids=self.answers, **self.setting)
        return np.load(self.answers), told["wall_seconds"], told["cpu_seconds"]

    def timed_searches_of_one(self, queries):
        return self.program.ask(do="latency", k=K, queries=len(queries), **self.setting)["microseconds"]


class Program:
    """The process, which ends when nothing more can be asked: with this one at the latest, however that ends."""

    def __init__(self, base, queries):
        path = Path(sys.prefix) / "bin" / "diskann_rs"
        if not os.access(path, os.X_OK):
            raise Unavailable(f"{path} is not a program: run setup.sh diskann_rs")
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.process = subprocess.Popen([path, base, queries], text=True, **pipes)
        atexit.register(self.end)
        self.hear()  # the vectors are in memory

    def follow(self):
        """Leaves it the processors that this process has; it has one thread while it searches."""
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self.process.pid, os.sched_getaffinity(0))

    def end(self):
        self.process.communicate()  # closes its stdin

    def ask(self, **command):
        try:
            print(json.dumps(command), file=self.process.stdin, flush=True)
        except OSError:
            pass  # it is gone: what it said last, or how it ended, says why
        return self.hear()

    def hear(self):
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise RuntimeError(f"the program {end}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer
