"""Any adapter class of ann-benchmarks as a peer of `kiln bench --config`.

    ann_benchmarks.py --module module.py --class HnswLib --config config.yml           the peer itself
    ann_benchmarks.py --module module.py --class HnswLib --config config.yml --toml    its engines, for run.toml

The module is a file or a name that can be imported; where ann-benchmarks itself cannot be, its base class stands in. The
configuration is the adapter's own, as YAML (with PyYAML installed) or JSON. Build parameters name one of its run groups
and, where the group has several variants, the number of one from 0; search parameters the number of the query arguments:

    build = { group = "M-16", variant = 0 }
    search = { variant = [0, 1, 2, 3] }

`args` and `query_args` in their place give the arguments as JSON: query_args = ["[10]", "[20]"]. `--toml` writes all of it.
"""

import argparse
import importlib
import importlib.util
import itertools
import json
import sys
import types
from pathlib import Path

import protocol

METRICS = {"l2": "euclidean", "cosine": "angular", "ip": "ip"}


class BaseANN:
    """What adapters inherit where ann-benchmarks is not installed."""

    def done(self):
        pass

    def get_memory_usage(self):
        return None

    def fit(self, X):
        pass

    def query(self, q, n):
        return []

    def batch_query(self, X, n):
        self.res = [self.query(q, n) for q in X]

    def get_batch_results(self):
        return self.res

    def get_additional(self):
        return {}

    def __str__(self):
        return getattr(self, "name", type(self).__name__)


def combinations(arguments):
    """All that nested lists stand for: a list is every choice of one of each of its entries, a mapping the same of its
    values, and anything else is itself."""
    if isinstance(arguments, dict):
        values = itertools.product(*(each(value) for value in arguments.values()))
        return [dict(zip(arguments, chosen)) for chosen in values]
    if isinstance(arguments, list):
        return [list(chosen) for chosen in itertools.product(*(each(entry) for entry in arguments))]
    return [arguments]


def each(entry):
    return entry if isinstance(entry, list) else [entry]


def variants(group, args, arg_groups):
    """The argument lists of a run group, one a variant."""
    if arg_groups in group:
        return [list(chosen) for chosen in itertools.product(*map(combinations, group[arg_groups]))]
    found = group.get(args)
    if not found:
        return [[]]
    whole = combinations(found)
    return [one if isinstance(one, list) else [one] for one in whole]


def builds_of(group):
    return variants(group, "args", "arg_groups")


def queries_of(group):
    return variants(group, "query_args", "query_arg_groups")


class Configuration:
    """The part of an adapter's configuration that belongs to its class."""

    def __init__(self, path, name):
        text = Path(path).read_text()
        if str(path).endswith(".json"):
            whole = json.loads(text)
        else:
            try:
                import yaml
            except ImportError as error:
                raise SystemExit(f"{path}: to read YAML, PyYAML is needed: pip install PyYAML, or give JSON") from error
            whole = yaml.safe_load(text)
        entries = [
            entry
            for kinds in whole.values()
            for listed in kinds.values()
            for entry in (listed if isinstance(listed, list) else listed.values())
        ]
        found = [entry for entry in entries if entry.get("constructor") == name]
        if not found:
            known = sorted({str(entry.get("constructor")) for entry in entries})
            raise SystemExit(f"{path}: it has no constructor {name}; it has {', '.join(known)}")
        self.base_args = found[0].get("base_args") or found[0].get("base-args") or []
        self.groups = {}
        for entry in found:
            for group, facts in (entry.get("run_groups") or entry.get("run-groups") or {}).items():
                self.groups[group] = {key.replace("-", "_"): value for key, value in facts.items()}

    def group(self, params):
        name = params.get("group", next(iter(self.groups), None))
        if name not in self.groups:
            raise ValueError(f"there is no run group {name!r}; there are {', '.join(map(repr, self.groups))}")
        return self.groups[name]


def chosen(params, key, variants):
    if key in params:
        value = json.loads(params[key]) if isinstance(params[key], str) else params[key]
        return value if isinstance(value, list) else [value]
    number = params.get("variant", 0)
    if not 0 <= number < len(variants):
        raise ValueError(f"there is no variant {number}: there are {len(variants)}, counted from 0")
    return variants[number]


class Adapter(protocol.Engine):
    def __init__(self, make, configuration, version):
        self.make, self.configuration, self.told_version = make, configuration, version

    def version(self):
        return self.told_version

    def build(self, base, metric, params, threads, folder):
        import numpy as np

        self.group = self.configuration.group(params)
        known = {"@metric": METRICS[metric], "@dimension": base.shape[1], "@count": 10}
        arguments = self.configuration.base_args + chosen(params, "args", builds_of(self.group))
        arguments = [known.get(one, one) if isinstance(one, str) else one for one in arguments]
        self.adapter = self.make(*arguments)
        self.adapter.fit(np.array(base))  # adapters may normalise their rows in place
        return None

    def use(self, params, k, threads):
        self.k = k
        arguments = chosen(params, "query_args", queries_of(self.group))
        if arguments:
            self.adapter.set_query_arguments(*arguments)

    def search(self, query):
        return self.adapter.query(query, self.k)

    def search_batch(self, queries):
        self.adapter.batch_query(queries, self.k)
        return self.adapter.get_batch_results()


def load(module):
    """A module by the path of its file, or by its name."""
    try:
        importlib.import_module("ann_benchmarks.algorithms.base.module")
    except ImportError:
        stand_in()
    if not module.endswith(".py"):
        return importlib.import_module(module)
    path = Path(module).resolve()
    # Adapters import their base class as `..base.module`.
    name = f"ann_benchmarks.algorithms.{path.parent.name.replace('-', '_')}.module"
    package = types.ModuleType(name.rpartition(".")[0])
    package.__path__ = [str(path.parent)]
    sys.modules[package.__name__] = package
    spec = importlib.util.spec_from_file_location(name, path)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def stand_in():
    """Makes ann-benchmarks' base class importable by its name."""
    for name in ("ann_benchmarks", "ann_benchmarks.algorithms", "ann_benchmarks.algorithms.base"):
        package = types.ModuleType(name)
        package.__path__ = []
        sys.modules[name] = package
    module = types.ModuleType("ann_benchmarks.algorithms.base.module")
    module.BaseANN = BaseANN
    sys.modules[module.__name__] = module


def toml(options, configuration):
    """The engines of a configuration, as run.toml has them."""
    quoted = json.dumps
    command = ["python3", sys.argv[0], "--module", options.module, "--class", options.constructor]
    command += ["--config", options.config]
    for name, group in configuration.groups.items():
        print(f"[[engine]]\npeer = {quoted(options.constructor)}\ncommand = {quoted(command)}")
        print(f"build = {{ group = {quoted(name)}, variant = {list(range(len(builds_of(group))))} }}")
        print(f"search = {{ variant = {list(range(len(queries_of(group))))} }}\n")


def parse():
    parser = argparse.ArgumentParser(description="Be a peer with an adapter of ann-benchmarks.")
    add = parser.add_argument
    add("--module", help="the adapter's file, or the name of its module")
    add("--class", dest="constructor", help="the adapter's class: `constructor` in its configuration")
    add("--config", help="the adapter's config.yml, or the same as JSON")
    add("--version-of", metavar="DISTRIBUTION", help="the distribution whose version is told")
    add("--toml", action="store_true", help="print the engines of the configuration for run.toml, and end")
    add("--selftest", action="store_true", help="test what needs no library, and end")
    options = parser.parse_args()
    if not options.selftest and not (options.module and options.constructor and options.config):
        parser.error("--module, --class and --config are needed")
    return options


def main():
    options = parse()
    if options.selftest:
        return selftest()
    configuration = Configuration(options.config, options.constructor)
    if options.toml:
        return toml(options, configuration)
    make = getattr(load(options.module), options.constructor)
    version = "unknown"
    if options.version_of:
        import importlib.metadata

        version = importlib.metadata.version(options.version_of)
    protocol.serve(Adapter(make, configuration, version))


def selftest():
    import tempfile

    assert combinations([[1, 2], 3]) == [[1, 3], [2, 3]]
    assert combinations({"M": [8, 16], "ef": 200}) == [{"M": 8, "ef": 200}, {"M": 16, "ef": 200}]
    group = {"arg_groups": [{"M": [8, 16]}, [100, [5, 6]]], "query_args": [[10, 20, 40]]}
    assert builds_of(group)[1] == [{"M": 8}, [100, 6]] and len(builds_of(group)) == 4
    assert queries_of(group) == [[10], [20], [40]] and queries_of({}) == [[]]
    assert builds_of({"args": {"a": [1, 2]}}) == [[{"a": 1}], [{"a": 2}]]
    assert builds_of({"args": [[1, 2], [3]]}) == [[1, 3], [2, 3]]
    with tempfile.TemporaryDirectory() as folder:
        config, module = Path(folder) / "config.json", Path(folder) / "mine" / "module.py"
        module.parent.mkdir()
        module.write_text(
            "from ..base.module import BaseANN\n"
            "class Mine(BaseANN):\n"
            "    def __init__(self, metric, params): self.made = metric, params\n"
            "    def set_query_arguments(self, ef): self.ef = ef\n"
            "    def query(self, q, n): return [self.ef] * n\n"
        )
        entry = {"constructor": "Mine", "base_args": ["@metric"], "run_groups": {"g": group}}
        config.write_text(json.dumps({"float": {"any": [entry]}}))
        configuration = Configuration(config, "Mine")
        make = load(str(module)).Mine
        adapter = Adapter(make, configuration, "1")
        adapter.group = configuration.group({})
        adapter.adapter = make("euclidean", {})
        adapter.use({"variant": 1}, 3, 1)
        assert adapter.search(None) == [20, 20, 20], adapter.search(None)
        adapter.use({"query_args": "[7]"}, 2, 1)
        assert adapter.search_batch([None, None]) == [[7, 7], [7, 7]]
        for wrong in (lambda: adapter.use({"variant": 9}, 3, 1), lambda: configuration.group({"group": "x"})):
            try:
                wrong()
                raise AssertionError("it was not refused")
            except ValueError:
                pass


if __name__ == "__main__":
    sys.exit(main())
