#!/usr/bin/env python3
"""A smoke test of peers: every row builds, searches in three modes, and finds what it should, on the embedded demo.

    smoke.py [ROW...]               all rows whose library is installed, unless some are named
    smoke.py --adapter voyager      and an adapter class of ann-benchmarks' layout, in the environment of voyager

It has `kiln bench --quick --config` measure one search setting a row, reads what `kiln export --format csv` writes, and
prints a table: recall and queries a second. Exit status 1, with the reasons, where a row was not built, a mode was not
measured, or recall is below the row's floor; and where a library that cannot search as a mode asks did not say so. The
binary is $KILN, or target/debug/kiln.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import row
import run_toml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MODES = ("latency-1", "throughput-2", "batch-2")

# Recall@10 of the one setting of a row, which is in the middle of its efforts, on 10,000 rows: a little below what it is.
FLOOR = 0.95
FLOORS = {
    "faiss-flat": 0.999,
    "faiss-ivf-pq": 0.85,  # 8-bit codes alone
    "lancedb": 0.90,
}

HEADER = """dataset = "demo"
out = {out}
k = 10
modes = {modes}
prune = false
threads = 2

[repeats]
runs = 3
seconds = 0.05
warmup_seconds = 0.1

"""

# The least that an adapter has, in the folder layout of ann-benchmarks.
ADAPTER = """import numpy as np
import voyager

from ..base.module import BaseANN


class Voyager(BaseANN):
    def __init__(self, metric, method_param):
        self.space = {"angular": voyager.Space.Cosine, "euclidean": voyager.Space.Euclidean}[metric]
        self.method_param = method_param

    def fit(self, X):
        m, effort = self.method_param["M"], self.method_param["efConstruction"]
        self.index = voyager.Index(self.space, X.shape[1], M=m, ef_construction=effort)
        self.index.add_items(X, num_threads=1)

    def set_query_arguments(self, ef):
        self.ef = ef
        self.name = f"voyager ({self.method_param}, ef: {ef})"

    def query(self, v, n):
        return self.index.query(v, n, query_ef=self.ef)[0]
"""
CONFIG = """float:
  any:
  - base_args: ['@metric']
    constructor: Voyager
    disabled: false
    docker_tag: ann-benchmarks-voyager
    module: ann_benchmarks.algorithms.voyager
    name: voyager
    run_groups:
      M-16:
        arg_groups: [{M: 16, efConstruction: 200}]
        args: {}
        query_args: [[40, 80]]
"""


def say(message):
    print(message, file=sys.stderr, flush=True)


def kiln():
    return os.environ.get("KILN") or str(ROOT / "target" / "debug" / "kiln")


def adapter_table(environment, folder):
    """The adapter's engine, as ann_benchmarks.py prints it."""
    where = Path(folder) / "voyager"
    where.mkdir()
    (where / "module.py").write_text(ADAPTER)
    (where / "config.yml").write_text(CONFIG)
    command = [row.python_of(environment), HERE / "ann_benchmarks.py", "--toml", "--class", "Voyager"]
    command += ["--module", where / "module.py", "--config", where / "config.yml", "--version-of", "voyager"]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def refusal(name, mode):
    """What a row is expected to say to a mode that its library does not have; None where it is to be measured."""
    entry = row.peers().get(name)
    if entry and mode.startswith("throughput") and not entry.engine.overlaps:
        return "cannot search on several threads at once"
    if entry and mode.startswith("batch") and not entry.engine.batches:
        return "has no call that searches on several threads"
    return None


def problems_of(name, records, settings=1):
    """What is wrong with the records of a row, in sentences."""
    wrong = []
    for mode in MODES:
        found = [record for record in records if record["engine"] == name and record["mode"] == mode]
        if len(found) < settings:
            wrong.append(f"{name}, {mode}: {len(found)} of {settings} settings are in the run")
        for record in found:
            expected, failure = refusal(name, mode), record["failure"]
            if expected is not None:
                if expected not in failure:
                    wrong.append(f"{name}, {mode}: it should have said that it {expected}; it said: {failure!r}")
            elif failure:
                wrong.append(f"{name}, {mode}: {failure}")
            elif not (float(record["qps"] or 0) > 0 and float(record["recall"] or 0) >= FLOORS.get(name, FLOOR)):
                floor = FLOORS.get(name, FLOOR)
                wrong.append(f"{name}, {mode}: recall {record['recall']}, {record['qps']} queries/s: {floor} is the least")
    return wrong


def table(names, records):
    lines = [f"{'row':18} {'recall@10':>9} " + " ".join(f"{mode + ' q/s':>16}" for mode in MODES) + f" {'build s':>8}"]
    for name in names:
        own = {record["mode"]: record for record in records if record["engine"] == name}
        measured = [record for record in own.values() if not record["failure"]]
        recall = f"{min(float(record['recall']) for record in measured):.3f}" if measured else "-"
        rates = [f"{float(own[m]['qps']):,.0f}" if m in own and not own[m]["failure"] else "-" for m in MODES]
        build = f"{float(measured[0]['build_seconds']):.1f}" if measured else "-"
        lines.append(f"{name:18} {recall:>9} " + " ".join(f"{rate:>16}" for rate in rates) + f" {build:>8}")
    return "\n".join(lines)


def measure(names, adapter, folder):
    """Runs the experiment in `folder`. Returns the records of its settings, and the names of its engines."""
    tables = [row.table(name, row.peers()[name], settings=1) for name in names]
    if adapter:
        tables.append(adapter_table(adapter, folder))
        names = [*names, "Voyager"]
    config, out = Path(folder) / "run.toml", Path(folder) / "run"
    header = HEADER.format(out=run_toml.value(str(out)), modes=run_toml.value(MODES))
    config.write_text(header + "\n".join(tables))
    # Threads that wait in a loop for others are slow where others take their turn, as on machines that test.
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
    subprocess.run([kiln(), "bench", "--quick", "--config", config], check=True, env=environment, stdout=sys.stderr)
    exported = Path(folder) / "run.csv"
    subprocess.run([kiln(), "export", out, "--format", "csv", "--out", exported], check=True, stdout=sys.stderr)
    with open(exported, newline="") as file:
        return list(csv.DictReader(file)), names


def installed(names):
    """The rows to test: those named, which must be installed, or all that are."""
    there = [name for name, entry in row.peers().items() if row.python_of(entry.environment).is_file()]
    missing = [name for name in names if name not in there]
    if missing:
        raise SystemExit(f"error: {', '.join(missing)}: not installed: run scripts/peers/setup.sh")
    if not there:
        raise SystemExit("error: no library is installed: run scripts/peers/setup.sh")
    return names or there


def parse():
    parser = argparse.ArgumentParser(prog="smoke.py", description="Smoke-test the peers on the embedded demo.")
    add = parser.add_argument
    add("rows", nargs="*", metavar="ROW", help="rows to test [all that are installed]")
    add("--adapter", metavar="LIB", help="test an adapter of ann-benchmarks' kind, too, in the environment LIB")
    add("--out", metavar="DIR", help="a new folder to keep the run in [a temporary one]")
    add("--selftest", action="store_true", help="test the judgement of records, and end")
    options = parser.parse_args()
    unknown = [name for name in options.rows if name not in row.peers()]
    if unknown:
        parser.error(f"there is no row {unknown[0]}; there are {', '.join(row.peers())}")
    return options


def main():
    options = parse()
    if options.selftest:
        return selftest()
    if not os.access(kiln(), os.X_OK):
        raise SystemExit(f"error: {kiln()} is not a program: run `cargo build`, or set KILN")
    names = installed(options.rows)
    if options.adapter and not row.python_of(options.adapter).is_file():
        raise SystemExit(f"error: {options.adapter}: not installed: run scripts/peers/setup.sh {options.adapter}")
    with tempfile.TemporaryDirectory(prefix="kiln-peers-") as temporary:
        folder = options.out or temporary
        os.makedirs(folder, exist_ok=True)
        try:
            records, names = measure(names, options.adapter, folder)
        except subprocess.CalledProcessError as failed:
            raise SystemExit(f"error: {failed}") from None
    wrong = [line for name in names for line in problems_of(name, records, 2 if name == "Voyager" else 1)]
    print(table(names, records))
    for line in wrong:
        say(f"error: {line}")
    say(f"{len(names)} peers, {len(wrong)} problems")
    return 1 if wrong else 0


def selftest():
    def records(**changes):
        usual = dict(engine="hnswlib", qps="100.5", recall="0.99", failure="", build_seconds="1.0")
        return [usual | dict(mode=mode) | changes for mode in MODES]

    assert problems_of("hnswlib", records()) == [] and "0.990" in table(["hnswlib"], records())
    assert len(problems_of("hnswlib", records()[1:])) == 1, "a mode is missing"
    for wrong in (dict(recall="0.1"), dict(recall=""), dict(qps="0"), dict(failure="it ended")):
        assert len(problems_of("hnswlib", records(**wrong))) == 3, wrong
        assert table(["hnswlib"], records(failure="it ended")).splitlines()[1].split()[1:] == ["-"] * 5
    refused = "it said, while searching: pyvsag has no call that searches on several threads; mode throughput has"
    one = [record | dict(engine="pyvsag") for record in records()]
    assert len(problems_of("pyvsag", one)) == 1, "it was to refuse a mode"
    one[2]["failure"] = refused
    assert problems_of("pyvsag", one) == []


if __name__ == "__main__":
    sys.exit(main())
