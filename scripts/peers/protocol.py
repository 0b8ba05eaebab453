"""The protocol of peers (docs/peers.md): what a library needs to be measured by `kiln bench --config`.

    class Mine(protocol.Engine):
        def build(self, base, metric, params, threads, folder): ...
        def use(self, params, k, threads): ...
        def search(self, query): ...

    if __name__ == "__main__":
        protocol.serve(Mine())

Enters: commands as JSON lines on stdin, vectors as .npy files. Leaves: events as JSON lines on stdout, answers and
latencies as .npy files. It times; it does not judge. Needed: the standard library and numpy.
"""

import json
import os
import resource
import sys
import threading
import time

PROTOCOL = 1
MOST_PASSES = 10_000  # of one turn, however short they are
ENTRY = 64  # queries that are answered before a turn is timed: others had theirs meanwhile, and caches are theirs


class Engine:
    """A library. Whatever its methods raise costs the build or the setting at hand and is told with its words."""

    dtypes = ("float32",)  # the element types that it takes; the data set's own is given where it is among them
    mode = None  # "latency", "throughput" or "batch": what is searched next, known when `use` is called

    def version(self):
        """The library's version."""
        return "unknown"

    def prepare(self, rows, metric):
        """Rows, or queries, as the library wants them, which are what it then gets. Nothing of it is timed."""
        return rows

    def build(self, base, metric, params, threads, folder):
        """Builds the index of `base` (n, dim), mapped read-only, on `threads` threads; `metric` is "l2", "ip" or "cosine".

        `folder` is empty and the engine's own. Returns the bytes of the index as the library saves it, or None.
        """
        raise NotImplementedError

    def index_bytes(self, folder):
        """The bytes of the index that was built, asked after the clock has stopped where `build` did not say."""
        return None

    def use(self, params, k, threads):
        """Prepares to search for `k` neighbours with `params` on `threads` threads."""
        raise NotImplementedError

    def search(self, query):
        """The ids of the nearest rows of one query (dim,), nearest first; fewer than k are fine."""
        raise NotImplementedError

    def search_batch(self, queries):
        """The same of all queries (q, dim) in one call: an array (q, k), or a list of lists."""
        return [self.search(query) for query in queries]

    def answers_of(self, found):
        """The ids of what `search_batch` returned, where bringing them into that form is not the library's time."""
        return found


def claim_stdout():
    """A writer for the protocol. What libraries print to stdout, in C++ too, goes to stderr from here on."""
    protocol = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(event, **facts):
        print(json.dumps({"event": event, **facts}), file=protocol, flush=True)

    return say


def serve(engine):
    """Speaks for `engine` until stdin ends."""
    import numpy  # noqa: F401  its memory is none that an index takes

    say = claim_stdout()
    say("ready", protocol=PROTOCOL, version=str(engine.version()), dtypes=list(engine.dtypes))
    for line in sys.stdin:
        try:
            command = json.loads(line)
            {"build": _build, "search": _search}[command.pop("do")](engine, say, **command)
        except MemoryError as error:
            say("error", reason=f"MemoryError: {error}", out_of_memory=True)
        except Exception as error:  # whatever a library throws is told
            say("error", reason=f"{type(error).__name__}: {error}")


def _build(engine, say, base, metric, params, threads, folder):
    import numpy as np

    rows = np.load(base, mmap_mode="r")
    rows.max(initial=0)  # has every page in memory, so that reading the file is not timed
    engine.metric = metric
    rows = engine.prepare(rows, metric)
    forget_peak()
    cpu_before, started = processor_seconds(), time.perf_counter()
    index_bytes = engine.build(rows, metric, params, threads, folder)
    seconds = time.perf_counter() - started
    # Of the build alone: what follows may take more, and prepare() may have.
    cost = {"cpu_seconds": processor_seconds() - cpu_before, "peak_rss_bytes": memory("VmHWM")}
    if index_bytes is None:
        index_bytes = engine.index_bytes(folder)
    del rows  # what the index does not keep is not its memory
    say("built", seconds=max(seconds, 1e-9), index_bytes=index_bytes, **cost)


def memory(name):
    """A field of this process's status in bytes, such as VmRSS or VmHWM; None where there is no such thing."""
    try:
        with open("/proc/self/status") as status:
            return next((1024 * int(line.split()[1]) for line in status if line.startswith(name + ":")), None)
    except OSError:
        return None


def forget_peak():
    """Has VmHWM begin again; where that cannot be, the peak is that of the whole life of the process."""
    try:
        with open("/proc/self/clear_refs", "w") as refs:
            refs.write("5")
    except OSError:
        pass


def processor_seconds():
    """Of this process and of those it has waited for."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _search(engine, say, queries, k, mode, threads, params, warm_up, passes, seconds, answers=None, latencies=None):
    import numpy as np

    rows = np.load(queries, mmap_mode="r")
    rows = engine.prepare(np.array(rows), engine.metric)  # a private copy: a page fault is not the library's time
    engine.mode = mode
    engine.use(params, k, threads)
    one_pass = {"latency": _one_by_one, "throughput": _threads, "batch": _batch}[mode]
    until = time.perf_counter() + warm_up
    while time.perf_counter() < until:
        one_pass(engine, rows, threads)
    if warm_up <= 0:
        one_pass(engine, rows[:ENTRY], threads)
    walls, times = [], []
    told = 0.0
    while (len(walls) < passes or told < seconds) and len(walls) < MOST_PASSES:
        wall, ids, nanoseconds = one_pass(engine, rows, threads)
        walls.append(wall)
        told += wall
        times.append(nanoseconds)
    if answers:
        np.save(answers, padded(ids, len(rows), k))
    if latencies:
        np.save(latencies, np.maximum(np.asarray(times, np.float64) / 1e3, 1e-3).astype(np.float32))
    say("searched", seconds=walls)


def _one_by_one(engine, rows, threads):
    ids, nanoseconds, clock, search = [], [], time.perf_counter_ns, engine.search
    began = clock()
    for row in rows:
        started = clock()
        found = search(row)
        nanoseconds.append(clock() - started)
        ids.append(found)
    return (clock() - began) / 1e9, ids, nanoseconds


def _threads(engine, rows, threads):
    """As one by one, by threads that take the next query from one counter. They overlap where the library lets the
    interpreter go while it searches."""
    if threads == 1:
        return _one_by_one(engine, rows, threads)
    ids, nanoseconds, clock, search = [None] * len(rows), [0] * len(rows), time.perf_counter_ns, engine.search
    queue, failure, ready, begun, ended = iter(range(len(rows))), [], threading.Barrier(threads), [], []

    def work():
        ready.wait()
        begun.append(clock())
        try:
            for number in queue:  # next() of a range is one step of the interpreter
                started = clock()
                ids[number] = search(rows[number])
                nanoseconds[number] = clock() - started
        except Exception as error:
            failure.append(error)
        ended.append(clock())

    crew = [threading.Thread(target=work) for _ in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    if failure:
        raise failure[0]
    # By their own clocks: this thread is told late, where they keep the interpreter.
    return (max(ended) - min(begun)) / 1e9, ids, nanoseconds


def _batch(engine, rows, threads):
    began = time.perf_counter()
    found = engine.search_batch(rows)
    wall = max(time.perf_counter() - began, 1e-9)
    return wall, engine.answers_of(found), None


def padded(ids, queries, k):
    """Ids as int64 (queries, k): -1 where there are fewer. What is not one list a query stays wrong, and is found."""
    import numpy as np

    if isinstance(ids, np.ndarray) and ids.ndim == 2 and ids.shape == (queries, k):
        return ids.astype(np.int64)
    width = max([k] + [len(found) for found in ids])
    out = np.full((len(ids), width), -1, np.int64)
    for row, found in zip(out, ids):
        row[: len(found)] = found
    return out


def selftest():
    try:
        import numpy as np
    except ImportError:
        print("SKIPPED: protocol.py was not tested, there is no numpy", file=sys.stderr)
        return
    import tempfile

    class Plain(Engine):
        def prepare(self, rows, metric):
            return rows * 2

        def build(self, base, metric, params, threads, folder):
            self.base = np.asarray(base)

        def index_bytes(self, folder):
            return 12

        def use(self, params, k, threads):
            self.k = params.get("k", k)

        def search(self, query):
            return np.argsort(np.square(self.base - query).sum(axis=1), kind="stable")[: self.k]

    said = []

    def say(event, **facts):
        said.append((event, facts))

    with tempfile.TemporaryDirectory() as folder:
        base, queries, answers, latencies = (os.path.join(folder, f"{name}.npy") for name in "bqal")
        np.save(base, np.arange(10, dtype=np.float32)[:, None])
        np.save(queries, np.array([[3.1], [8.2]], np.float32))
        engine = Plain()
        _build(engine, say, base=base, metric="l2", params={}, threads=1, folder=folder)
        assert said[-1][0] == "built" and said[-1][1]["index_bytes"] == 12, said
        assert said[-1][1]["cpu_seconds"] >= 0 and (said[-1][1]["peak_rss_bytes"] or 1) > 0, said
        for mode, threads in (("latency", 1), ("throughput", 2), ("batch", 1)):
            wanted = dict(queries=queries, k=3, mode=mode, threads=threads, params={}, warm_up=0.001, passes=4, seconds=0)
            files = dict(answers=answers, latencies=None if mode == "batch" else latencies)
            _search(engine, say, **wanted, **files)
            event, facts = said[-1]
            assert event == "searched" and len(facts["seconds"]) == 4 and min(facts["seconds"]) > 0, said[-1]
            assert np.load(answers).tolist() == [[3, 4, 2], [8, 9, 7]], mode
            if mode != "batch":
                assert np.load(latencies).shape == (4, 2) and np.load(latencies).min() > 0, mode
    assert padded([[1], [2, 3]], 2, 3).tolist() == [[1, -1, -1], [2, 3, -1]]
    assert padded([[1, 2, 3, 4]], 1, 3).shape == (1, 4), "too many are not hidden"


if __name__ == "__main__":
    if sys.argv[1:] == ["--selftest"]:
        selftest()
    else:
        sys.exit("this is a base class: run a peer, such as noop.py")
