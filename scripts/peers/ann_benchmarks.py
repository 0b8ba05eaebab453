"""Any adapter class of ann-benchmarks as a peer of `kiln bench --config`.

    ann_benchmarks.py --module module.py --class HnswLib --config config.yml           the peer itself
    ann_benchmarks.py --module module.py --class HnswLib --config config.yml --toml    its engines, for run.toml

The module is a file or a name that can be imported; where ann-benchmarks itself cannot be, its base class stands in. The
configuration is the adapter's own, as YAML (with PyYAML installed) or JSON; where it has several definitions of the class,
--name chooses one. Build parameters name one of its run groups, and give arguments as JSON; search parameters give those of
queries:

    build = { group = "M-16", args = ["[{\\"M\\": 16}]"] }
    search = { query_args = ["[10]", "[20]"] }

`variant`, in their place, is the number of one of the group's own, from 0. `--toml` writes all of it, with the Python that it
is run by.
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
import run_toml

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


def choices(entry):
    """What an entry of `arg_groups` stands for: one of the points of a mapping, one of a list, or itself."""
    return combinations(entry) if isinstance(entry, dict) else each(entry)


def variants(group, args, arg_groups):
    """The argument lists of a run group, one a variant."""
    if arg_groups in group:
        # ann-benchmarks passes over empty lists of query arguments.
        entries = [entry for entry in group[arg_groups] if entry != []]
        return [list(chosen) for chosen in itertools.product(*map(choices, entries))]
    found = group.get(args)
    if found is None:
        return [[]]
    whole = combinations(found)
    return [one if isinstance(one, list) else [one] for one in whole]


def builds_of(group):
    return variants(group, "args", "arg_groups")


def queries_of(group):
    return variants(group, "query_args", "query_arg_groups")


class Configuration:
    """The part of an adapter's configuration that belongs to its class."""

    def __init__(self, path, constructor, name=None):
        """`name` chooses among several definitions of the class, such as "hnsw(nmslib)"."""
        found = [
            (metric, entry)
            for metrics in read(path).values()
            for metric, listed in metrics.items()
            for entry in named(listed)
        ]
        definitions = [(m, entry) for m, entry in found if entry.get("constructor") == constructor]
        if not definitions:
            known = sorted({str(entry.get("constructor")) for _, entry in found})
            raise SystemExit(f"{path}: it has no constructor {constructor}; it has {', '.join(known)}")
        names = sorted({str(entry.get("name")) for _, entry in definitions})
        if name is None and len(names) > 1:
            raise SystemExit(f"{path}: it defines {constructor} {len(names)} times: choose by --name: {', '.join(names)}")
        if name is not None:
            definitions = [(m, entry) for m, entry in definitions if entry.get("name") == name]
        if not definitions:
            raise SystemExit(f"{path}: no definition of {constructor} has the name {name}; there are {', '.join(names)}")
        # By metric, "any" among them: (arguments that come first, run groups).
        self.definitions = {metric: parts(entry) for metric, entry in reversed(definitions)}

    def definition(self, metric):
        """As ann-benchmarks chooses: what is for any metric before what is for this one. None: any that there is."""
        if metric is None:
            return next(iter(self.definitions.values()))
        found = self.definitions.get("any") or self.definitions.get(METRICS[metric])
        if found is None:
            raise ValueError(f"the adapter's configuration is for {', '.join(self.definitions)}, not for {METRICS[metric]}")
        return found

    def groups(self):
        """All run groups, whatever their metric."""
        return {name: group for _, groups in self.definitions.values() for name, group in groups.items()}

    def group(self, params, metric=None):
        """The run group that build parameters name, the first where they name none, and the arguments before its own."""
        base_args, groups = self.definition(metric)
        name = params.get("group", next(iter(groups), None))
        if name not in groups:
            raise ValueError(f"there is no run group {name!r}; there are {', '.join(map(repr, groups))}")
        return base_args, groups[name]


def read(path):
    text = Path(path).read_text()
    if str(path).endswith(".json"):
        return json.loads(text)
    try:
        import yaml
    except ImportError as error:
        raise SystemExit(f"{path}: to read YAML, PyYAML is needed: pip install PyYAML, or give JSON") from error
    return yaml.safe_load(text)


def named(definitions):
    """Definitions with their names: a list of them has the names inside, an older mapping has them as keys."""
    if isinstance(definitions, list):
        return definitions
    return [{"name": name, **definition} for name, definition in definitions.items()]


def parts(definition):
    """The first arguments of a definition, and its run groups; spelt with - in older files."""
    base_args = definition.get("base_args") or definition.get("base-args") or []
    groups = definition.get("run_groups") or definition.get("run-groups") or {}
    return base_args, {
        name: {key.replace("-", "_"): value for key, value in facts.items()} for name, facts in groups.items()
    }


def substituted(argument, known):
    """An argument with what ann-benchmarks puts in place of @metric, @dimension and @count, however deep."""
    if isinstance(argument, dict):
        return {key: substituted(value, known) for key, value in argument.items()}
    if isinstance(argument, list):
        return [substituted(value, known) for value in argument]
    return known.get(argument, argument) if isinstance(argument, str) else argument


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

    def prepare(self, rows, metric):
        import numpy as np

        # Adapters may normalise their rows in place.
        return rows if rows.flags.writeable else np.array(rows)

    def build(self, base, metric, params, threads, folder):
        base_args, self.group = self.configuration.group(params, metric)
        known = {"@metric": METRICS[metric], "@dimension": base.shape[1], "@count": 10}
        arguments = [*base_args, *chosen(params, "args", builds_of(self.group))]
        self.adapter = self.make(*(substituted(one, known) for one in arguments))
        self.adapter.fit(base)

    def use(self, params, k, threads):
        self.k = k
        arguments = chosen(params, "query_args", queries_of(self.group))
        if arguments:
            self.adapter.set_query_arguments(*arguments)

    def search(self, query):
        return self.adapter.query(query, self.k)

    def search_batch(self, queries):
        self.adapter.batch_query(queries, self.k)

    def answers_of(self, found):
        # As ann-benchmarks' own runner, which asks for them when its clock has stopped.
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
    constants = types.ModuleType("ann_benchmarks.constants")
    constants.INDEX_DIR = "indices"
    for one in (module, constants):
        sys.modules[one.__name__] = one


def toml(options, configuration):
    """The engines of a configuration, as run.toml has them."""
    command = [run_toml.path(sys.executable), run_toml.path(sys.argv[0]), "--class", options.constructor]
    # A module is a file, or a name that can be imported.
    module = run_toml.path(options.module) if options.module.endswith(".py") else options.module
    command += ["--module", module, "--config", run_toml.path(options.config)]
    for flag, given in (("--name", options.name), ("--version-of", options.version_of)):
        command += [flag, given] if given else []
    for name, group in configuration.groups().items():
        # Spelt out, so that charts and tables say what was measured.
        build = {"group": name, "args": [json.dumps(args) for args in builds_of(group)]}
        search = {"query_args": [json.dumps(args) for args in queries_of(group)]}
        print(run_toml.engine(options.constructor, command, build=build, search=search))


def parse():
    parser = argparse.ArgumentParser(description="Be a peer with an adapter of ann-benchmarks.")
    add = parser.add_argument
    add("--module", help="the adapter's file, or the name of its module")
    add("--class", dest="constructor", help="the adapter's class: `constructor` in its configuration")
    add("--config", help="the adapter's config.yml, or the same as JSON")
    add("--name", help="which definition of the class, where the configuration has several")
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
    configuration = Configuration(options.config, options.constructor, options.name)
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
    # A list in arg_groups is one argument, of several to choose from; `args` beside it counts for nothing.
    group = {"arg_groups": [{"M": [8, 16]}, [100, [5, 6]], "x"], "args": {}, "query_args": [[10, 20, 40]]}
    assert builds_of(group)[1] == [{"M": 8}, [5, 6], "x"] and len(builds_of(group)) == 4
    assert queries_of(group) == [[10], [20], [40]] and queries_of({}) == [[]]
    assert builds_of({"args": {}}) == [[{}]] and builds_of({"args": []}) == [[]]
    assert queries_of({"query_arg_groups": [[], [1, 2]]}) == [[1], [2]]
    assert substituted({"m": ["@metric", 3]}, {"@metric": "angular"}) == {"m": ["angular", 3]}
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
        entry = {"constructor": "Mine", "name": "one", "base_args": ["@metric"], "run_groups": {"g": group}}
        other = entry | {"base_args": ["@dimension"]}
        config.write_text(json.dumps({"float": {"euclidean": [entry], "angular": [other]}}))
        configuration = Configuration(config, "Mine")
        assert configuration.group({}, "l2")[0] == ["@metric"] and configuration.group({}, "cosine")[0] == ["@dimension"]
        make = load(str(module)).Mine
        adapter = Adapter(make, configuration, "1")
        _, adapter.group = configuration.group({}, "l2")
        adapter.adapter = make("euclidean", {})
        adapter.use({"variant": 1}, 3, 1)
        assert adapter.search(None) == [20, 20, 20], adapter.search(None)
        adapter.use({"query_args": "[7]"}, 2, 1)
        assert adapter.answers_of(adapter.search_batch([None, None])) == [[7, 7], [7, 7]]
        for wrong in (
            lambda: adapter.use({"variant": 9}, 3, 1),
            lambda: configuration.group({"group": "x"}),
            lambda: configuration.group({}, "ip"),
        ):
            try:
                wrong()
                raise AssertionError("it was not refused")
            except ValueError:
                pass


if __name__ == "__main__":
    sys.exit(main())
