#!/usr/bin/env python3
"""A row of engines/ as a peer of `kiln bench --config`, and the tables that name it there.

    row.py hnswlib                           the peer itself, in the environment of its library
    row.py --toml [ROW...]                   [[engine]] tables for run.toml: of all rows whose library is installed
    row.py --toml --settings 5 hnswlib       few search settings, spread over those of the row

`scripts/peers/setup.sh` installs the libraries. Paths are printed relative to the folder in which this is run, where they
lie below it: run `kiln bench` in the same. Build parameters replace those of the row; search parameters are those of its
settings, all of them. `k`, and threads in the modes throughput and batch, are as Kiln asks; what a library cannot do is told
as the error of that setting.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import engines
import protocol
import run_toml

HERE = Path(__file__).resolve().parent
BLOCK = 1 << 16  # rows brought to unit length at a time


class Row(protocol.Engine):
    def __init__(self, name):
        self.name, kind = name, engines.catalogue()[name].engine
        self.engine = kind(kind.rows[name])
        self.dtypes = tuple(kind.dtypes)
        self.warm = False

    def version(self):
        return self.engine.version()

    def prepare(self, rows, metric):
        """As these engines are given angular sets: at unit length, where L2 ranks as the angle does."""
        import numpy as np

        if not self.warm:
            self.engine.warm_up()
            self.warm = True
        if metric == "cosine":
            return at_unit_length(rows)
        return np.array(rows) if self.engine.writes_to_rows and not rows.flags.writeable else rows

    def build(self, base, metric, params, threads, folder):
        if metric == "ip":
            raise ValueError("the engines of this folder compare by l2 or cosine")
        self.refuse_unknown(params, self.engine.params, "builds")
        self.engine.params.update(params)
        metric = "angular" if metric == "cosine" else "euclidean"
        self.engine.build(engines.Job("", base, None, metric, threads, folder))
        print(f"{self.name}: built with {self.engine.params}", file=sys.stderr, flush=True)

    def refuse_unknown(self, params, known, does):
        for name in params:
            if name not in known and name not in self.engine.optional:
                all_of_them = ", ".join([*known, *self.engine.optional]) or "no parameters"
                raise ValueError(f"there is no parameter {name}: {self.name} {does} with {all_of_them}")

    def index_bytes(self, folder):
        saved = tempfile.mkdtemp(dir=folder)
        try:
            return self.engine.index_bytes(saved)
        finally:
            shutil.rmtree(saved, ignore_errors=True)

    def use(self, params, k, threads):
        self.refuse_unknown(params, self.engine.grid, "searches")
        missing = [name for name in self.engine.grid if name not in params]
        if missing:
            raise ValueError(f"{self.name} searches with {', '.join(self.engine.grid)}: give {missing[0]}")
        if threads > 1 and self.mode == "throughput" and not self.engine.overlaps:
            raise engines.Unavailable(f"{self.name} cannot search on several threads at once; mode batch can")
        if threads > 1 and self.mode == "batch" and not self.engine.batches:
            raise engines.Unavailable(f"{self.name} has no call that searches on several threads; mode throughput has")
        self.engine.use(params, k, threads if self.mode == "batch" else 1)

    def search(self, query):
        return self.engine.search_one(query)

    def search_batch(self, queries):
        return self.engine.search(queries)


def at_unit_length(rows):
    """In float32, computed in float64; a row of zeros stays."""
    import numpy as np

    out = np.empty(rows.shape, np.float32)
    for first in range(0, len(rows), BLOCK):
        block = np.asarray(rows[first : first + BLOCK], np.float64)
        norms = np.linalg.norm(block, axis=1, keepdims=True)
        out[first : first + BLOCK] = block / np.where(norms > 0, norms, 1)
    return out


# --- run.toml --------------------------------------------------------------------------------------------------------


def python_of(environment):
    home = Path(os.environ.get("KILN_PEERS_HOME") or HERE / ".venvs")
    return home / environment / "bin" / "python"


def peers():
    """Row name -> entry, of those that are peers."""
    return {name: entry for name, entry in engines.catalogue().items() if entry.engine.peer}


def thinned(grid, settings):
    """About so many settings of a grid: values of the first parameter from end to end, and the middle of the others."""
    if settings is None or not grid:
        return grid
    (first, values), *others = grid.items()
    last = len(values) - 1
    if settings == 1:
        places = [(len(values) + 1) // 2]
    else:
        places = sorted({round(place * last / (settings - 1)) for place in range(settings)})
    return {first: [values[place] for place in places]} | {name: [more[len(more) // 2]] for name, more in others}


def table(name, entry, settings=None, limit=None):
    kind = entry.engine
    engine = kind(kind.rows[name])
    command = [run_toml.path(python_of(entry.environment)), run_toml.path(HERE / "row.py"), name]
    return run_toml.engine(
        name,
        command,
        build=engine.params,
        search=thinned(engine.grid, settings),
        residency=kind.residency,
        memory_limit=limit,
        start_timeout="2min",
        build_timeout=kind.build_timeout,
        search_timeout=kind.search_timeout,
    )


def toml(names, settings, limit):
    """Prints the tables. Returns the exit status: rows that are named and not installed are a failure."""
    known, status = peers(), 0
    for name in names or known:
        entry = known[name]
        if not python_of(entry.environment).is_file():
            print(f"{name}: left out: run scripts/peers/setup.sh {entry.environment}", file=sys.stderr)
            status = 1 if names else 0
        else:
            print(table(name, entry, settings, limit))
    return status


def parse(arguments=None):
    def count(text):
        number = int(text)
        if number < 1:
            raise ValueError
        return number

    parser = argparse.ArgumentParser(prog="row.py", description="Be a peer of kiln bench, or print what names it there.")
    add = parser.add_argument
    add("rows", nargs="*", metavar="ROW", help=f"one to be; with --toml any: {', '.join(peers())}")
    add("--toml", action="store_true", help="print [[engine]] tables for run.toml, and end")
    add("--settings", type=count, metavar="N", help="with --toml: about so many search settings a row [all]")
    add("--memory-limit", metavar="SIZE", help="with --toml: of each process [three quarters of this machine's]")
    add("--selftest", action="store_true", help="test what needs no library, and end")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.rows if name not in engines.catalogue()]
    if unknown:
        parser.error(f"there is no row {unknown[0]}; there are {', '.join(peers())}")
    others = [name for name in options.rows if name not in peers()]
    if others:
        parser.error(f"{others[0]} is measured by compare.sh alone, or is a peer by itself: kiln peer, noop.py")
    if not (options.toml or options.selftest) and len(options.rows) != 1:
        parser.error("name one row to be, or give --toml")
    return options


def main():
    options = parse()
    if options.selftest:
        return selftest()
    if options.toml:
        return toml(options.rows, options.settings, options.memory_limit or run_toml.memory_limit())
    protocol.serve(Row(options.rows[0]))
    return 0


def selftest():
    grid = {"ef": (10, 15, 20, 30, 40), "more": (1, 2, 3)}
    assert thinned(grid, 3) == {"ef": [10, 20, 40], "more": [2]} and thinned(grid, 1) == {"ef": [30], "more": [2]}
    assert thinned(grid, 99)["ef"] == [10, 15, 20, 30, 40] and thinned(grid, None) is grid and thinned({}, 3) == {}
    known = peers()
    assert len(known) > 15 and "noop" not in known and "kiln-ivf" not in known and "diskann-rs" not in known
    for name, entry in known.items():
        text = table(name, entry, 2, "1GiB")
        assert text.startswith(f'[[engine]]\npeer = "{name}"\n') and 'memory_limit = "1GiB"' in text, text
        read_back(name, entry, text)


def read_back(name, entry, text):
    try:
        import tomllib
    except ImportError:  # before Python 3.11
        return
    (engine,) = tomllib.loads(text)["engine"]
    made = entry.engine(entry.engine.rows[name])
    assert engine["build"] == made.params and sorted(engine.get("search", {})) == sorted(made.grid), text
    assert engine["command"][-1] == name and engine["residency"] in ("memory", "ssd"), text


if __name__ == "__main__":
    sys.exit(main())
