"""Measures Kiln and its peers on one data set file, by one judge. Started by compare.sh; see README.md.

Every row of the table is a process of its own (runner.py). They build one after another and stay alive; then sweeps
over all search settings go round the rows, as often as asked, so that a machine that slows down slows everybody.
OUT/compare.json is written after every build and every sweep; OUT/compare.md is the report.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import dataset
import engines
import judge
import levels
import report
import session
from dataset import Failure

try:
    import numpy as np

    MISSING = None
except ImportError as error:
    MISSING = error

HERE = Path(__file__).resolve().parent
START_TIMEOUT = 120  # seconds until a runner has its library and its vectors


def say(message):
    print(message, file=sys.stderr, flush=True)


class Row:
    """One row of the table: its process while it lives, and what it said, `facts`, as compare.json holds it."""

    def __init__(self, name, options, vectors):
        self.name, self.options, self.vectors = name, options, vectors
        self.environment = engines.catalogue()[name].environment
        self.facts = dict(row=name, version=None, built=None, settings=[], lost=None)
        self.session = None

    @property
    def alive(self):
        return self.session is not None and self.facts["lost"] is None

    def lose(self, reason):
        say(f"{self.name}: lost: {reason}")
        self.facts["lost"] = reason

    def build(self):
        """Installs the library if need be, starts the process and has it build."""
        if self.environment == "driver":
            python = sys.executable
        else:
            complaint = install(self.environment)
            if complaint:
                return self.lose(complaint)
            python = environments() / self.environment / "bin" / "python"
        work = self.options.out / "work" / self.name
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        command = [python, "-u", HERE / "runner.py", self.name, "--dataset", self.options.dataset.resolve()]
        command += ["--vectors", self.vectors, "--work", work, "--threads", str(self.options.threads_build)]
        self.session = session.Session([str(word) for word in command], self.options.out / f"{self.name}.log")
        try:
            ready = self.session.hear(START_TIMEOUT, "starting")
            self.facts.update(version=ready["version"], dtype=ready["dtype"])
            self.session.tell(do="build")
            built = self.session.hear(self.options.build_timeout, "building")
        except session.Lost as lost:
            return self.lose(str(lost))
        del built["event"]
        self.facts.update(params=built.pop("params"), built=built)
        say(f"{self.name}: built in {built['wall_seconds']:.1f} s, {built['cpu_seconds']:.1f} CPU-s")

    def sweep(self, first, judging):
        """Has every setting measured once. What was heard before a loss stays."""
        started, settings, answers = time.monotonic(), self.facts["settings"], []
        self.session.tell(do="sweep", first=first)
        try:
            number = 0
            while (event := self.session.hear(self.options.setting_timeout, "searching"))["event"] != "swept":
                if first:
                    told = {name: event[name] for name in ("setting", "mode", "latency_us")}
                    settings.append(told | dict(recall=None, rounds=[], cpu_share=[]))
                    answers.append(event["ids"])
                settings[number]["rounds"].append(event["seconds"])
                settings[number]["cpu_share"].append(event["cpu_share"])
                number += 1
            say(f"{self.name}: {number} settings in {time.monotonic() - started:.1f} s")
        except session.Lost as lost:
            self.lose(str(lost))
        # Judged only now that nothing is being timed.
        try:
            for setting, path in zip(settings, answers):
                setting["recall"] = judging.recall(np.load(path))
        except ValueError as wrong:
            settings.clear()
            self.close()
            self.lose(str(wrong))

    def close(self):
        if self.session is not None:
            self.session.close()


def compare(options):
    """The whole comparison; returns what compare.json holds."""
    vectors = dataset.extract(options.dataset, options.cache, engines.K)
    facts = dataset.facts(vectors)
    parts = [np.load(vectors / f"{name}.npy", mmap_mode="r") for name in ("base", "queries", "truth")]
    judging = judge.Judge(*parts, facts["metric"])
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [Row(name, options, vectors) for name in options.rows]
    raw = dict(
        dataset=facts | dict(k=engines.K),
        host=host(),
        options=dict(rounds=options.repeat, threads_build=options.threads_build),
        started=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        rows=[row.facts for row in rows],
    )
    try:
        for row in rows:
            row.build()
            save(raw, options.out)
        for number in range(options.repeat):
            say(f"round {number + 1} of {options.repeat}")
            for row in rows:
                if row.alive:
                    row.sweep(number == 0, judging)
                    save(raw, options.out)
    finally:
        for row in rows:
            row.close()
        shutil.rmtree(options.out / "work", ignore_errors=True)
    return raw


def save(raw, out):
    """Whole or not at all."""
    partial = out / "compare.json.partial"
    partial.write_text(json.dumps(raw, indent=1))
    os.replace(partial, out / "compare.json")


def host():
    processor = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), processor)
    except OSError:
        pass
    return dict(processor=processor, cpus=os.cpu_count(), system=f"{platform.system()} {platform.release()}")


def install(environment):
    """Makes sure that a library is there. Returns what went wrong, or None."""
    last = None
    with subprocess.Popen([HERE / "setup.sh", environment], stderr=subprocess.PIPE, text=True) as setup:
        for line in setup.stderr:
            last = line.strip()
            say(last)
    return last if setup.returncode != 0 else None


def environments():
    return Path(os.environ.get("KILN_PEERS_HOME") or HERE / ".venvs").resolve()


# --- Command line ----------------------------------------------------------------------------------------------------


def chosen(only):
    """Rows named by `only`: rows or libraries, separated by commas. All that are measured by default if it is None."""
    catalogue = engines.catalogue()
    if only is None:
        return [row for row, entry in catalogue.items() if entry.by_default]
    rows = []
    for name in only.split(","):
        found = [row for row, entry in catalogue.items() if name in (row, entry.library)]
        if not found:
            raise Failure(f"--only {name}: no such row or library; there are {', '.join(catalogue)}")
        rows += [row for row in found if row not in rows]
    return rows


def parse(arguments):
    def positive(text):
        number = int(text)
        if number < 1:
            raise ValueError
        return number

    parser = argparse.ArgumentParser(prog="compare.sh", description="Measure Kiln and its peers on one data set file.")
    add = parser.add_argument
    add("dataset", type=Path, nargs="?", metavar="DATASET.hdf5", help="ann-benchmarks' layout, euclidean or angular")
    add("--only", metavar="NAME,NAME", help="rows or libraries [all]")
    add("--list", action="store_true", help="print the rows and their libraries, and exit")
    add("--repeat", type=positive, metavar="N", default=3, help="rounds of sweeps [%(default)s]")
    add("--threads-build", type=positive, metavar="T", default=2, help="threads to build with [%(default)s]")
    add("--out", type=Path, metavar="DIR", default=HERE / "out", help="folder of the results [scripts/peers/out]")
    add(
        "--cache",
        type=Path,
        metavar="DIR",
        default=HERE / ".cache",
        help="of data sets taken apart [scripts/peers/.cache]",
    )
    add("--build-timeout", type=positive, metavar="S", default=3600, help="seconds a build [%(default)s]")
    add("--setting-timeout", type=positive, metavar="S", default=600, help="seconds a setting [%(default)s]")
    add("--selftest", action="store_true", help="test these scripts on made-up data, and exit")
    options = parser.parse_args(arguments)
    if options.dataset is None and not (options.selftest or options.list):
        parser.error("DATASET.hdf5 is required")
    options.rows = chosen(options.only)
    return options


def selftest():
    """What needs NumPy runs where it is; returns what was not tested, or None."""
    assert len(engines.catalogue()) > 10, "rows"
    for test in (engines, session, levels, report):
        test.selftest()
    if MISSING is not None:
        return str(MISSING)
    judge.selftest()
    return None


def main():
    try:
        options = parse(sys.argv[1:])
        if options.selftest:
            untested = selftest()
            say(f"SKIPPED: the judge was not tested: {untested}" if untested else "compare.py: self test passed")
            return 0
        if options.list:
            print("\n".join(f"{row:28} {entry.library}" for row, entry in engines.catalogue().items()))
            return 0
        if MISSING is not None:
            raise Failure(f"{MISSING}. Run compare.sh, which installs it")
        raw = compare(options)
        if not any(row["settings"] for row in raw["rows"]):
            raise Failure("no row was measured: the reasons are above")
        save(raw | dict(derived=report.derived(raw)), options.out)
        text = report.text(raw)
        (options.out / "compare.md").write_text(text)
        print(text, end="")
        say(f"{options.out / 'compare.md'} and compare.json are written")
    except Failure as failure:
        say(f"error: {failure}")
        return 1
    except KeyboardInterrupt:
        say("interrupted: what was measured is in compare.json")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
