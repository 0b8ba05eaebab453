"""Runs one row of the table in a process of its own, in the environment of its library.

Enters, as JSON lines on stdin: {"do": "build"}, then {"do": "sweep", "first": true or false} as often as wanted; a
sweep may name its `settings`, and whether it is to time single queries, `latency`.
Leaves, as JSON lines on stdout: `ready`, `built`, one `setting` a search setting, `swept`; or one `error`, and the
process ends. Answers of the first sweep are written as .npy files. It times; it does not judge.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import engines
import protocol


def job_of(options, engine):
    """Maps the vectors, in the data set's own type if the engine takes it, and has every page of the base in memory."""
    import numpy as np

    facts = json.loads((options.vectors / "set.json").read_text())
    own = facts["dtype"] in engine.dtypes and facts["metric"] != "angular"
    suffix = ".npy" if own else ".f32.npy"
    base, queries = (np.load(options.vectors / (name + suffix), mmap_mode="r") for name in ("base", "queries"))
    queries = queries[: options.queries]
    if engine.writes_to_rows:
        base, queries = np.array(base), np.array(queries)
    base.max()  # reads all of it, so that the memory taken while building is not the vectors
    return engines.Job(str(options.dataset), base, queries, facts["metric"], options.threads, str(options.work))


def build(engine, job):
    if engine.reopen(job):
        return {"wall_seconds": 0.0, "cpu_seconds": 0.0, "reopened": True, "index_bytes": engine.index_bytes(None)}
    engine.warm_up()
    protocol.forget_peak()
    before = protocol.memory("VmRSS")
    cpu_started, started = protocol.processor_seconds(), time.perf_counter()
    own = engine.build(job)
    built = {"wall_seconds": time.perf_counter() - started, "cpu_seconds": protocol.processor_seconds() - cpu_started}
    if before is not None:
        built["extra_rss_bytes"] = protocol.memory("VmHWM") - before
    built.update(own or {})
    with tempfile.TemporaryDirectory(dir=job.folder) as saved:
        built["index_bytes"] = engine.index_bytes(saved)
    return built


def pin(processors):
    """Leaves so many processors to all threads of this process: no library can use more than it says."""
    if not hasattr(os, "sched_setaffinity"):
        return
    last = sorted(os.sched_getaffinity(0))[-processors:]
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), last)


def sweep(engine, job, command, say):
    import numpy as np

    first = command["first"]
    for number, setting in enumerate(command.get("settings") or engine.settings()):
        measured = engine.measure(job, setting, with_latency=command.get("latency", first))
        facts = measured._asdict()
        ids = facts.pop("ids")
        if first:
            path = Path(job.folder) / f"ids-{number}.npy"
            np.save(path, np.asarray(ids).astype(np.int64))
            facts["ids"] = str(path)
        say("setting", setting=setting, **facts)
    say("swept")


def serve(options, say):
    engine_class = engines.catalogue()[options.row].engine
    engine = engine_class(engine_class.rows[options.row])
    version = engine.version()
    job = job_of(options, engine)
    say("ready", version=version, dtype=str(job.base.dtype), queries=len(job.queries))
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "build":
            facts = build(engine, job)
            pin(engine.processors)
            say("built", params=engine.params, **facts)
        else:
            sweep(engine, job, command, say)


def parse():
    parser = argparse.ArgumentParser(description="Run one row; started by compare.py.")
    add = parser.add_argument
    add("row", help="name of the row")
    add("--dataset", type=Path, required=True, help="the HDF5 file")
    add("--vectors", type=Path, required=True, help="its parts, of dataset.py")
    add("--work", type=Path, required=True, help="a folder for this row, empty or of an earlier process")
    add("--queries", type=int, help="search with so many of the queries, the first [all]")
    add("--threads", type=int, required=True, help="threads to build with")
    return parser.parse_args()


def main():
    say = protocol.claim_stdout()
    try:
        serve(parse(), say)
    except engines.Unavailable as reason:
        say("error", reason=f"unavailable: {reason}")
        return 1
    except Exception as error:  # whatever a library throws costs this row and is told
        say("error", reason=f"{type(error).__name__}: {error}")
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
