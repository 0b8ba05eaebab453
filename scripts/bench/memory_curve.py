"""QPS at recall .95 against serving memory: one index file on the drive, memory from 8 MiB to 1 GiB, and its report.

    scripts/bench/memory_curve.sh DATASET.hdf5 [--index X.kiln] [--memory 8MiB,...,1GiB] [--out DIR] [--no-peers] [--quick]

Enters a data set in ann-benchmarks' layout and an index of it, which is built where none is named. Leaves a run folder,
OUT/run, with `report.html`. Every step keeps what it has done, so that the same command goes on where it was stopped:

1. a brief sweep in the least and the most memory finds the settings around recall .95, OUT/efforts.json;
2. `kiln bench` measures those in every memory, direct, and in memory, with the drive's ceiling, OUT/run;
3. diskannpy's index on the drive is measured in as much memory, where it can go, by the same judge, OUT/run/peers.jsonl;
4. `kiln report` draws all of it.

The kiln is $KILN, or target/release/kiln. Started by memory_curve.sh, which makes the Python environment.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / "peers"
sys.path.insert(0, str(PEERS))

import compare  # noqa: E402
import dataset  # noqa: E402
import engines  # noqa: E402
import judge  # noqa: E402
import session  # noqa: E402
from dataset import Failure  # noqa: E402

KILN = os.environ.get("KILN") or str(HERE.parents[1] / "target/release/kiln")
LEVEL = 0.95
MEMORY = "8MiB,16MiB,32MiB,64MiB,128MiB,256MiB,512MiB,1GiB"
SEARCH_LISTS, PROBES = (10, 15, 20, 25, 30, 40, 60, 80, 120), (4, 8, 16, 32, 64, 128)
FLAGS = {"search_list": "--search-list", "nprobe": "--nprobe"}
PEER = "diskannpy-ssd"
PEER_LISTS = (20, 30, 40, 60)
LEAST_CACHED = 1 << 20  # bytes beside a peer's codes that are worth a row
START_TIMEOUT, BUILD_TIMEOUT, SETTING_TIMEOUT = 120, 7200, 900  # seconds
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def say(message):
    print(message, file=sys.stderr, flush=True)


def kiln(*arguments):
    """Runs Kiln, whose own messages go to stderr; returns its standard output."""
    words = [KILN, *map(str, arguments)]
    say("+ " + " ".join(words))
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Failure(f"kiln {arguments[0]} ended with exit code {done.returncode}; its message is above")
    return done.stdout


def size(text):
    """Bytes of `64MiB`."""
    unit = next((unit for unit in UNITS if text.endswith(unit)), None)
    try:
        return int(float(text.removesuffix(unit)) * UNITS[unit])
    except (TypeError, ValueError):
        raise Failure(f"--memory {text}: write a number and KiB, MiB or GiB, such as 64MiB") from None


def bracket(curve, level):
    """The efforts around `level` of `curve`, pairs of effort and recall: the last below it and the first at or above
    it. Without either, the two nearest."""
    curve = sorted(curve)
    above = next((place for place, (_, recall) in enumerate(curve) if recall >= level), len(curve) - 1)
    first = max(0, above - 1)
    return [effort for effort, _ in curve[first : first + 2]]


def write(path, text):
    """Whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


# --- Kiln --------------------------------------------------------------------------------------------------------------


def build(options):
    """The index to serve: the one named, or one of our own."""
    if options.index is not None:
        if not options.index.is_file():
            raise Failure(f"{options.index}: no such file; build it with `kiln build`, or leave --index out")
        return options.index
    index = options.out / "index.kiln"
    if not index.is_file():
        kiln("build", "--dataset", options.dataset, *options.build.split(), "--out", index)
    return index


def bench(options, index, out, *more):
    command = ["bench", "--dataset", options.dataset, "--open", index, "--out", out, "--json", "-"]
    return json.loads(kiln(*command, "--queries", options.queries, *more))


def efforts(options, index):
    """Flags for the settings around the level: on the drive, in the least and in the most memory, and in memory, where
    the same setting may find more."""
    known = options.out / "efforts.json"
    if known.is_file():
        return json.loads(known.read_text())
    ends = sorted(options.memory.split(","), key=size)
    sweeps = ["--search-list", ",".join(map(str, SEARCH_LISTS)), "--nprobe", ",".join(map(str, PROBES))]
    places = ["--residency", "ssd,memory", "--memory", ",".join({ends[0]: 0, ends[-1]: 0})]
    told = bench(options, index, options.out / "probe", "--quick", "--threads", "2", *places, *sweeps)
    rows = [row for row in told["rows"] if row["mode"] == "throughput-2" and row["recall"] is not None]
    flags = {}
    for residency in ("ssd", "memory"):
        here = [row for row in rows if row["residency"] == residency]
        if not here:
            raise Failure(f"no setting could be searched with --residency {residency}: the reasons are above")
        name = next(name for name in FLAGS if name in here[0]["params"])
        chosen = set()
        for memory in {row["memory_budget_bytes"] for row in here}:
            curve = [(row["params"][name], row["recall"]) for row in here if row["memory_budget_bytes"] == memory]
            chosen.update(bracket(curve, LEVEL))
        flags[residency] = [FLAGS[name], ",".join(map(str, sorted(chosen)))]
    write(known, json.dumps(flags))
    return flags


def measure(options, index, flags):
    common = ["--threads", options.threads, *(["--quick"] if options.quick else [])]
    on_drive = ["--residency", "ssd", "--io-state", "direct", "--memory", options.memory]
    bench(options, index, options.out / "run", *on_drive, *flags["ssd"], *common)
    bench(options, index, options.out / "run", "--residency", "memory", *flags["memory"], *common)


# --- The peer ----------------------------------------------------------------------------------------------------------


def measure_peer(options):
    """The peer in every memory that its codes leave some of, on every number of threads, a record each."""
    kept = options.out / "run" / "peers.jsonl"
    records = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
    threads = sorted({1, *map(int, options.threads.split(","))})
    memories = [None, *sorted(map(size, options.memory.split(",")))]
    wanted = [(memory, count) for memory in memories for count in threads]
    if not any(worth(records, *each) for each in wanted):
        return
    complaint = compare.install(engines.catalogue()[PEER].environment)
    if complaint:
        raise session.Lost(complaint)
    vectors = dataset.extract(options.dataset, options.cache, engines.K)
    facts = dataset.facts(vectors)
    import numpy as np

    base, queries, truth = (np.load(vectors / f"{name}.npy", mmap_mode="r") for name in ("base", "queries", "truth"))
    queries, truth = queries[: options.queries], truth[: options.queries]
    judging = judge.Judge(base, queries, truth, facts["metric"])
    work = options.out / PEER
    work.mkdir(exist_ok=True)
    python = compare.environments() / engines.catalogue()[PEER].environment / "bin" / "python"
    command = [python, "-u", PEERS / "runner.py", PEER, "--dataset", options.dataset.resolve()]
    command += ["--vectors", vectors, "--work", work, "--threads", os.cpu_count(), "--queries", len(queries)]
    peer = session.Session([str(word) for word in command], options.out / f"{PEER}.log")
    try:
        version = peer.hear(START_TIMEOUT, "starting")["version"]
        say(f"{PEER}: building, unless it was built before")
        peer.tell(do="build")
        built = peer.hear(BUILD_TIMEOUT, "building")
        say(f"{PEER}: {'reopened' if built.get('reopened') else 'built in %.0f s' % built['wall_seconds']}")
        for memory, count in wanted:
            if not worth(records, memory, count):
                continue
            lists = PEER_LISTS
            if records:
                lists = bracket([(p["params"]["complexity"], p["recall"]) for p in records[0]["points"]], LEVEL)
            settings = [{"complexity": L, "threads": count} for L in lists]
            if memory is not None:
                settings = [setting | {"memory_bytes": memory} for setting in settings]
            points, serving = sweep(peer, settings, judging, len(queries))
            records.append(
                dict(name=PEER, version=version, residency="ssd", threads=count, serving_bytes=serving)
                | dict(memory_bytes=memory, points=points)
            )
            write(kept, "".join(json.dumps(record) + "\n" for record in records))
    finally:
        peer.close()


def worth(records, memory, threads):
    """Whether the peer is to be measured so: it was not yet, its codes fit, and less did not hold all of it already.

    The first record is that without a cache: it holds the codes alone.
    """
    if any((record["memory_bytes"], record["threads"]) == (memory, threads) for record in records):
        return False
    if memory is None or not records:
        return True
    cached = [record for record in records if record["memory_bytes"] is not None]
    whole = [r["memory_bytes"] for r in cached if r["memory_bytes"] - r["serving_bytes"] > LEAST_CACHED]
    return memory - records[0]["serving_bytes"] >= LEAST_CACHED and not any(memory > bytes for bytes in whole)


def sweep(peer, settings, judging, queries):
    """The points of some settings, and the memory that they held."""
    import numpy as np

    points, serving, answers = [], 0, []
    peer.tell(do="sweep", first=True, latency=False, settings=settings)
    while (event := peer.hear(SETTING_TIMEOUT, "searching"))["event"] != "swept":
        rates = [queries / seconds for seconds in event["seconds"]]
        points.append(dict(params=event["setting"], qps=rates, pages=event["pages"]))
        answers.append(np.load(event["ids"]))
        serving = event["serving_bytes"]
    for point, ids in zip(points, answers):
        point["recall"] = judging.recall(ids)
    shown = ", ".join(f"L {p['params']['complexity']}: {p['recall']:.3f} {median(p['qps']):,.0f}/s" for p in points)
    say(f"{PEER}: {serving / UNITS['MiB']:,.0f} MiB, {settings[0]['threads']} threads: {shown}")
    return points, serving


# --- Command line ------------------------------------------------------------------------------------------------------


def parse(arguments):
    parser = argparse.ArgumentParser(prog="memory_curve.sh", description="QPS at recall .95 against serving memory.")
    add = parser.add_argument
    add("dataset", type=Path, nargs="?", metavar="DATASET.hdf5", help="ann-benchmarks' layout, euclidean")
    add("--index", type=Path, metavar="X.kiln", help="the file to serve [OUT/index.kiln, built where it is missing]")
    add("--build", metavar="FLAGS", default="--index vamana", help="flags of that `kiln build` [%(default)s]")
    add("--memory", metavar="SIZE,..", default=MEMORY, help="memory that serving may use [%(default)s]")
    add("--threads", metavar="T,T", default="2", help="beside one thread, which is always measured [%(default)s]")
    add("--queries", type=int, metavar="N", default=1000, help="the first N queries of the set [%(default)s]")
    add("--out", type=Path, metavar="DIR", default=Path("kiln-runs/memory-curve"), help="[%(default)s]")
    add("--cache", type=Path, metavar="DIR", default=PEERS / ".cache", help="of data sets taken apart")
    add("--quick", action="store_true", help="fewer repeats than the methodology asks; the report says so")
    add("--no-peers", action="store_true", help="leave diskannpy out")
    add("--selftest", action="store_true", help="test this script, and exit")
    options = parser.parse_args(arguments)
    if options.dataset is None and not options.selftest:
        parser.error("DATASET.hdf5 is required")
    return options


def selftest():
    curve = [(40, 0.97), (10, 0.80), (20, 0.90), (30, 0.95)]
    assert bracket(curve, 0.95) == [20, 30], "reached exactly"
    assert bracket(curve, 0.96) == [30, 40] and bracket(curve, 0.5) == [10, 20] and bracket(curve, 0.99) == [30, 40]
    assert bracket([(7, 0.5)], 0.95) == [7], "one setting"
    assert size("8MiB") == 8 << 20 and size("1.5GiB") == 3 << 29
    def record(memory, threads, serving):
        return dict(memory_bytes=memory, threads=threads, serving_bytes=serving)

    mib = UNITS["MiB"]
    records = [record(None, 1, 20 * mib)]
    assert worth([], 5, 1) and worth(records, None, 2) and not worth(records, None, 1)
    assert not worth(records, 16 * mib, 1) and worth(records, 32 * mib, 1), "the codes must fit"
    records += [record(32 * mib, 1, 32 * mib - 5), record(64 * mib, 1, 50 * mib)]
    assert worth(records, 64 * mib, 2) and not worth(records, 128 * mib, 1), "all of it is in memory"
    for wrong in ("8", "MiB", "xMiB"):
        try:
            size(wrong)
            raise AssertionError(f"{wrong} is no size")
        except Failure as failure:
            assert wrong in str(failure), failure


def main():
    try:
        options = parse(sys.argv[1:])
        if options.selftest:
            selftest()
            say("memory_curve.py: self test passed")
            return 0
        if not os.access(KILN, os.X_OK):
            raise Failure(f"{KILN} is not a program: run `cargo build --release`, or set KILN")
        options.memory = ",".join(word.strip() for word in options.memory.split(","))
        for text in options.memory.split(","):
            size(text)
        options.out.mkdir(parents=True, exist_ok=True)
        index = build(options)
        measure(options, index, efforts(options, index))
        if not options.no_peers:
            try:
                measure_peer(options)
            except session.Lost as lost:
                say(f"{PEER}: lost: {lost}; the report goes without the rest of it")
        print(kiln("report", options.out / "run"), end="")
    except Failure as failure:
        say(f"error: {failure}")
        return 1
    except KeyboardInterrupt:
        say("interrupted: the same command goes on from here")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
