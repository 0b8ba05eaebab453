"""Tables [[engine]] of an experiment's file, run.toml, as `kiln bench --config` reads them.

Enters: what is known of a peer. Leaves: text. Kiln takes paths to be relative to the folder in which it is run.
"""

import json
import os
from pathlib import Path


def path(of):
    """A path as run.toml is to have it: relative where it lies below this folder, so that a run can be moved with it."""
    whole = os.path.abspath(of)  # links stay: an environment is known by where its program seems to be
    below = os.path.relpath(whole)
    return whole if below.startswith(os.pardir) else below


def engine(peer, command, build=None, search=None, **more):
    """One table. Values are strings, numbers, and lists of them: their JSON is TOML, too."""
    lines = ["[[engine]]", f"peer = {value(peer)}", f"command = {value(command)}"]
    lines += [f"{name} = {inline(grid)}" for name, grid in (("build", build), ("search", search)) if grid]
    lines += [f"{name} = {value(one)}" for name, one in more.items() if one is not None]
    return "\n".join(lines) + "\n"


def inline(table):
    return "{ " + ", ".join(f"{name} = {value(one)}" for name, one in table.items()) + " }"


def value(one):
    return json.dumps(list(one) if isinstance(one, tuple) else one, ensure_ascii=False)


def memory_limit():
    """Three quarters of this machine's memory, in whole GiB; None where it is not known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kib = next((int(line.split()[1]) for line in lines if line.startswith("MemTotal:")), 0)
    gib = kib * 3 // 4 >> 20
    return f"{gib}GiB" if gib else None
