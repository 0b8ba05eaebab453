"""Takes an HDF5 file of ann-benchmarks' layout apart, once, into .npy files that processes map into memory.

base.npy, queries.npy          rows in the file's own type: what the judge measures with
base.f32.npy, queries.f32.npy  the same in float32, at unit length if the set is angular: what engines are given
truth.npy                      (q, K) ids of the true nearest, nearest first
set.json                       name, metric, rows, dim, queries, dtype of the file
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

BLOCK = 1 << 16  # rows read at a time
METRICS = ("euclidean", "angular")


class Failure(Exception):
    """Something that the user can act on."""


def extract(path, cache, k):
    """The folder of the parts of `path`, below `cache`; made unless this very file was taken apart before."""
    path = Path(path).resolve()
    if not path.is_file():
        raise Failure(f"{path}: no such file")
    stat = path.stat()
    folder = Path(cache) / f"{path.stem}-{stat.st_size}-{stat.st_mtime_ns}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Renamed only when complete: what an interrupt leaves is never mistaken for a data set.
    partial = Path(tempfile.mkdtemp(prefix=f"{path.stem}.partial-", dir=folder.parent))
    try:
        take_apart(path, partial, k)
        os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder


def take_apart(path, folder, k):
    import h5py
    import numpy as np

    try:
        file = h5py.File(path)
    except OSError as error:
        raise Failure(f"{path}: {error}") from error
    with file:
        for name in ("train", "test", "neighbors"):
            if name not in file:
                raise Failure(f"{path}: it has no data set `{name}`: not a file of ann-benchmarks' layout")
        metric = file.attrs.get("distance")
        metric = metric.decode() if isinstance(metric, bytes) else metric
        if metric not in METRICS:
            raise Failure(f"{path}: its distance is {metric}; this compares {' and '.join(METRICS)} only")
        train, test, truth = file["train"], file["test"], file["neighbors"]
        if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1]:
            raise Failure(f"{path}: train is {train.shape} and test is {test.shape}; both must be rows of one length")
        if len(truth) != len(test) or truth.shape[1] < k:
            raise Failure(f"{path}: neighbors is {truth.shape}; needed are {k} or more for each of {len(test)} queries")
        for name, rows in (("base", train), ("queries", test)):
            own = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", rows.dtype, rows.shape)
            single = np.lib.format.open_memmap(folder / f"{name}.f32.npy", "w+", np.float32, rows.shape)
            for first in range(0, len(rows), BLOCK):
                block = rows[first : first + BLOCK]
                own[first : first + BLOCK] = block
                single[first : first + BLOCK] = unit(block) if metric == "angular" else block
        np.save(folder / "truth.npy", truth[:, :k].astype(np.int64))
        facts = dict(name=path.stem, metric=metric, rows=len(train), dim=train.shape[1], queries=len(test))
        facts["dtype"] = str(train.dtype)
    (folder / "set.json").write_text(json.dumps(facts))


def unit(rows):
    """Rows at unit length, computed in float64; a row of zeros stays."""
    import numpy as np

    rows = rows.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def facts(folder):
    return json.loads((Path(folder) / "set.json").read_text())
