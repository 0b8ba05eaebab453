"""The libraries that are measured, one file each: what the runner asks of them, and how it finds them.

A file defines one class, `Engine`, and is enrolled by being here. It is called as its environment is, which is made
from requirements/LIB.txt. The library is imported inside the methods: the driver reads all rows without having any.
compare.py measures them through runner.py, ten neighbours on one thread; `kiln bench --config` through row.py, as asked.
"""

import importlib
import importlib.metadata
import itertools
import os
import pkgutil
import time
from typing import NamedTuple

K = 10  # neighbours wanted, where nothing else is asked
PASSES = 3  # timed passes over the whole query set, at least, after one to warm up
MORE_PASSES, MORE_SECONDS = 50, 0.3  # a small set is over in milliseconds: passes go on to either of these
LATENCY_QUERIES = 1000  # at most, asked one a call


class Unavailable(Exception):
    """This row cannot be had here, for the reason given: a flag or a feature that is not there."""


class Job(NamedTuple):
    """What an engine works on. For angular data sets the rows are at unit length, where L2 ranks as the angle does."""

    dataset: str  # path of the HDF5 file
    base: object  # (n, dim), mapped from a file, of one of the engine's dtypes
    queries: object  # (q, dim), of the same dtype
    metric: str  # of the data set: "euclidean" or "angular"
    threads: int  # to build with
    folder: str  # for the engine alone, empty at first


class Measurement(NamedTuple):
    ids: object  # (q, K), of any integer type
    seconds: list  # of each timed pass over the whole query set, one call on one thread
    cpu_share: float  # of these seconds that the process had the processor; None where that is not known
    latency_us: dict  # p50 and p99 of one query a call; None unless asked for
    mode: str = "batch"  # or "one by one", where the timed passes asked one query a call
    pages: float = None  # of 4 KiB that the kernel fetched for a query in the last pass; None: not counted
    serving_bytes: int = None  # that searching holds in memory, as far as it is known


class Entry(NamedTuple):
    """A row of the table."""

    library: str  # the file it comes from
    environment: str  # what it runs in
    engine: type
    by_default: bool  # whether compare.py measures it unless rows are named


class Engine:
    environment = None  # the requirements it is installed from; None: the file's own name
    distribution = None  # its name on PyPI
    by_default = True  # compare.py measures it unless rows are named
    only_named = ()  # rows of an engine that is measured by default, which are not
    processors = 1  # that it may search on
    dtypes = ("float32",)  # the element types that it indexes; the data set's own is preferred, float32 otherwise
    rows = {}  # name of a row of the table -> parameters
    grid = {}  # search parameters -> values, in ascending order of effort; the first is what effort depends on most

    # What row.py tells of it to `kiln bench --config`.
    peer = True  # whether row.py can be asked for it: it is a Python library, which is timed by Python's clock
    residency = "memory"  # where the index lies while it is searched, or "ssd"
    optional = ()  # build and search parameters that may be given beside those of the row and of the grid
    writes_to_rows = False  # whether it refuses rows that it may not write to, though it does not write
    overlaps = True  # whether searches on several threads at once give the answers that they give one by one
    batches = True  # whether one call can search on several threads
    build_timeout = "2h"
    search_timeout = "10min"

    def __init__(self, params):
        self.params = dict(params)

    def version(self):
        return importlib.metadata.version(self.distribution)

    def build(self, job):
        """Builds the index of `job.base` on `job.threads` threads. Returns what the runner cannot see, if anything."""
        raise NotImplementedError

    def reopen(self, job):
        """Opens what an earlier process built in the job's folder, of the same rows; False: there is nothing whole."""
        return False

    def index_bytes(self, folder):
        """The size of the index as the library saves it, into `folder`."""
        raise NotImplementedError

    def warm_up(self):
        """What a library does once in its life, such as compiling itself: before the clock of a build starts."""

    def settings(self):
        """The search settings to measure, each a dictionary, in ascending order of effort."""
        return [dict(zip(self.grid, values)) for values in itertools.product(*self.grid.values())]

    def use(self, setting, k=K, threads=1):
        """Prepares to search for `k` neighbours with `setting`, on `threads` threads a call."""
        self.setting, self.k, self.threads = setting, k, threads

    def search(self, queries):
        """The ids of the k nearest of every query, in one call."""
        raise NotImplementedError

    def search_one(self, query):
        """The same of one query, (dim,), for its latency: (k,)."""
        return self.search(query[None])[0]

    def timed_search(self, queries):
        """(ids, seconds, processor seconds) of `search`. An engine whose library runs elsewhere has its own clock."""
        cpu_started, started = time.process_time(), time.perf_counter()
        ids = self.search(queries)
        return ids, time.perf_counter() - started, time.process_time() - cpu_started

    def timed_searches_of_one(self, queries):
        """Microseconds of each of `queries`, asked one a call."""
        times = []
        for query in queries:
            started = time.perf_counter()
            self.search_one(query)
            times.append(1e6 * (time.perf_counter() - started))
        return times

    def measure(self, job, setting, with_latency):
        """Times one setting. Only an engine that repeats by rules of its own has a way of its own."""
        self.use(setting)
        self.timed_search(job.queries)
        seconds, cpu_seconds = [], 0.0
        while len(seconds) < PASSES or (len(seconds) < MORE_PASSES and sum(seconds) < MORE_SECONDS):
            ids, wall, cpu = self.timed_search(job.queries)
            seconds.append(wall)
            cpu_seconds += cpu
        latency_us = None
        if with_latency:
            times = sorted(self.timed_searches_of_one(job.queries[:LATENCY_QUERIES]))
            latency_us = {"p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100]}
        return Measurement(ids, seconds, cpu_seconds / sum(seconds), latency_us)


def catalogue():
    """Row name -> Entry, in order of files."""
    entries = {}
    for module in pkgutil.iter_modules(__path__):
        engine = importlib.import_module(f"{__name__}.{module.name}").Engine
        for name in engine.rows:
            if name in entries:
                raise ValueError(f"two engines have a row {name}")
            by_default = engine.by_default and name not in engine.only_named
            entries[name] = Entry(module.name, engine.environment or module.name, engine, by_default)
    return entries


def size_of(path):
    """Bytes of a file, or of all files below a folder."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names)


def selftest():
    class Clocked(Engine):
        passes = 0

        def timed_search(self, queries):
            self.passes += 1
            return [self.setting["ef"]] * len(queries), 0.125, 0.0625

        def timed_searches_of_one(self, queries):
            return [float(query) for query in queries]

    class Plain(Engine):
        grid = {"ef": (1, 2), "more": (3, 4)}

        def search(self, queries):
            return list(queries)

        def search_one(self, query):
            return query

    job = Job(dataset="", base=None, queries=list(range(200, 0, -1)), metric="euclidean", threads=1, folder="")
    clocked = Clocked({})
    told = clocked.measure(job, {"ef": 7}, with_latency=True)
    assert told.ids == [7] * 200 and told.seconds == [0.125] * 3 and told.cpu_share == 0.5, told
    assert told.latency_us == {"p50": 101.0, "p99": 199.0} and clocked.passes == 4, (told, clocked.passes)
    told = Plain({}).measure(job, {}, with_latency=False)
    assert told.ids == job.queries and len(told.seconds) == MORE_PASSES and told.latency_us is None, told
    assert Plain({}).settings()[1] == {"ef": 1, "more": 4} and Engine({}).settings() == [{}]
