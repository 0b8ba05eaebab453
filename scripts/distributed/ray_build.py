"""Makes the units of a plan on a Ray cluster, one task a unit, and merges them.

    scripts/distributed/ray_build.sh --work /shared/base.work [--address HOST:6379]

The place was planned with `kiln unit plan`; every node has the program (`--kiln`), the data set at the path of the plan, and
reaches the place. Ray gives each unit its processors and its GPU, makes it again where a node dies or a unit fails, and starts
a stage's units once those are there that they are made from. A driver that dies loses nothing: the same command goes on.
"""

import argparse
import collections
import ctypes
import json
import os
import signal
import subprocess
import sys
import time

import ray


class UnitFailed(Exception):
    """A unit that the program could not make, with what it said."""


def program(args):
    """The program's words for a unit, less which."""
    words = [args.kiln, "unit", "build", "--work", args.work, "--device", args.device]
    for name, value in (("--cache", args.cache), ("--cache-size", args.cache_size), ("--dataset", args.dataset)):
        words += [name, value] if value else []
    if args.cpus >= 1:
        words += ["--threads", str(int(args.cpus))]
    return words


def die_with_parent():
    """Ends a program with the worker that started it, however that ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def make_unit(words, stage, number):
    """Makes one unit on whatever node this runs; returns the node and the seconds it took."""
    began = time.monotonic()
    linux = sys.platform == "linux"
    ran = subprocess.run(
        words + ["--stage", stage, "--units", str(number)],
        capture_output=True,
        text=True,
        preexec_fn=die_with_parent if linux else None,
    )
    node = ray.get_runtime_context().get_node_id()[:8]
    if ran.returncode != 0:
        lines = ran.stderr.strip().splitlines()[-5:]
        raise UnitFailed(f"{stage} {number} on node {node}, exit code {ran.returncode}: " + " / ".join(lines))
    return node, time.monotonic() - began


def run_here(args, *words):
    """Runs `kiln unit` on this machine; returns what it prints."""
    cache = ["--cache", args.cache] if args.cache else []
    ran = subprocess.run([args.kiln, "unit", *words, "--work", args.work, *cache], stdout=subprocess.PIPE, text=True)
    if ran.returncode != 0:
        # It has said why.
        sys.exit(1)
    return ran.stdout


def say(text):
    print(text, file=sys.stderr, flush=True)


class Driver:
    """Submits what can be made, and collects it."""

    def __init__(self, args):
        self.args = args
        # Ray makes a task again that is lost with its node, or whose unit fails.
        memory = json.loads(run_here(args, "status", "--json"))["memory_budget"]
        options = {"num_cpus": args.cpus, "num_gpus": args.gpus, "memory": memory, "max_retries": args.retries}
        self.task = ray.remote(make_unit).options(retry_exceptions=[UnitFailed], **options)
        self.running = {}
        self.figures = collections.defaultdict(lambda: {"units": 0, "seconds": 0.0, "nodes": set(), "from": None, "to": None})
        self.began = time.monotonic()

    def submit_ready(self):
        """Submits what can be made now and is not under way. Returns whether the index can be written."""
        status = json.loads(run_here(self.args, "status", "--json"))
        under_way = set(self.running.values())
        words = program(self.args)
        for stage in status["stages"]:
            missing = [number for number in stage["missing"] if (stage["stage"], number) not in under_way]
            if stage["ready"] and missing:
                say(f"{stage['stage']}: {len(missing)} of {stage['units']} units to make")
                for number in missing:
                    self.running[self.task.remote(words, stage["stage"], number)] = (stage["stage"], number)
        return status["complete"]

    def collect_one(self):
        """Waits for a unit. Returns whether its stage has no more of them under way."""
        (done,), _ = ray.wait(list(self.running), num_returns=1)
        stage, number = self.running.pop(done)
        try:
            node, seconds = ray.get(done)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            say(f"error: {stage} {number}: given up after {self.args.retries} retries: {cause or error}")
            say("error: what is finished is kept; the same command goes on from there")
            sys.exit(1)
        figures, now = self.figures[stage], time.monotonic() - self.began
        figures["units"] += 1
        figures["seconds"] += seconds
        figures["nodes"].add(node)
        figures["from"] = min(now - seconds, figures["from"] or now)
        figures["to"] = now
        left = sum(1 for other, _ in self.running.values() if other == stage)
        say(f"{now:8.1f} s  {stage} {number} on {node} in {seconds:.1f} s, {left} left")
        return left == 0

    def run(self):
        complete = self.submit_ready()
        while not complete:
            if not self.running:
                sys.exit("error: nothing can be made, and the index is not complete: see `kiln unit status`")
            if self.collect_one():
                complete = self.submit_ready()
                if self.args.clean:
                    run_here(self.args, "clean")

    def summary(self):
        print(f"{'stage':<10} {'units':>6} {'nodes':>6} {'wall s':>8} {'unit s':>8}")
        for stage, figures in self.figures.items():
            wall = figures["to"] - figures["from"]
            print(f"{stage:<10} {figures['units']:>6} {len(figures['nodes']):>6} {wall:>8.1f} {figures['seconds']:>8.1f}")
        units = sum(figures["units"] for figures in self.figures.values())
        print(f"{units} units in {time.monotonic() - self.began:.1f} s")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="the place of the plan: a folder or an address")
    parser.add_argument("--out", help="the index file to write on this machine [default: as planned]")
    parser.add_argument("--address", help="the cluster, HOST:PORT [default: the one of this machine, else a new local one]")
    parser.add_argument("--kiln", default=os.environ.get("KILN", "kiln"), help="the program, on every node [default: $KILN, kiln]")
    parser.add_argument("--dataset", help="the data set, where nodes have it elsewhere than the plan says")
    parser.add_argument("--cache", help="folder of every node for copies from an object store")
    parser.add_argument("--cache-size", help="what these copies may take, such as 200GB")
    parser.add_argument("--device", default="auto", help="what computes: auto, cuda, wgpu, cpu")
    parser.add_argument("--cpus", type=float, default=1, help="processors of a unit [default: 1]")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of a unit [default: 0]")
    parser.add_argument("--retries", type=int, default=5, help="times that a unit is made again [default: 5]")
    parser.add_argument("--no-clean", dest="clean", action="store_false", help="keep units that nothing needs any more")
    parser.add_argument("--no-merge", dest="merge", action="store_false", help="make the units alone")
    return parser.parse_args()


def main():
    args = arguments()
    args.kiln = os.path.abspath(args.kiln) if os.sep in args.kiln else args.kiln
    args.work = args.work if "://" in args.work else os.path.abspath(args.work)
    ray.init(address=args.address, log_to_driver=False, logging_level="warning")
    driver = Driver(args)
    driver.run()
    driver.summary()
    ray.shutdown()
    if args.merge:
        out = ["--out", args.out] if args.out else []
        print(run_here(args, "merge", "--device", args.device, *out), end="")


if __name__ == "__main__":
    main()
