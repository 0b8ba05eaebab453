#!/usr/bin/env python3
"""Makes photosift-128-euclidean.hdf5: SIFT descriptors of freely licensed photographs, with exact truth.

Enters: five Debian packages of desktop wallpapers, fetched by `apt-get download`; no root is needed.
Leaves: one HDF5 file in the layout of ann-benchmarks:

    train      (n, 128)  u8    descriptors of 59 photographs, duplicates removed, shuffled
    test       (q, 128)  u8    descriptors of four photographs that are not in train
    neighbors  (q, 100)  i32   the exact nearest rows of train, by (distance, row)
    distances  (q, 100)  f32   their euclidean distances, not squared

Requirements: Python 3.9, apt-get and dpkg-deb (Debian or Ubuntu), 1 GB of disk, 5 GB of memory, five minutes, and

    python3 -m venv venv && venv/bin/pip install -r scripts/datasets/requirements.txt
    venv/bin/python scripts/datasets/photosift.py --out photosift-128-euclidean.hdf5

The variant that Kiln embeds as its demo is the first 10,000 rows, in f32:

    venv/bin/python scripts/datasets/photosift.py --rows 10000 --out photosift-10k-128-euclidean.hdf5

With Debian 12's packages and OpenCV 5.0.0 the base is 736,862 rows. Another release's photographs or another OpenCV may
give others, and another shuffle gives other queries: a remake is a data set of its own, with its own truth. Compare
figures only within one file.

What was fetched and computed stays in the working folder: an interrupted run continues where it was.
"""

import argparse
import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

try:
    import cv2
    import h5py
    import numpy as np

    MISSING = None
except ImportError as error:
    MISSING = error

# Package -> the version that the published file was made from (Debian 12).
PACKAGES = {
    "gnome-backgrounds": "43.1-1",
    "lomiri-wallpapers": "20.04.0-2",
    "mate-backgrounds": "1.26.0-1",
    "plasma-workspace-wallpapers": "4:5.27.5-2",
    "ukui-wallpapers": "20.04.3-1.1",
}
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".avif"}
QUERY_PHOTOS = {"Blinds", "ColorfulCups", "Volna", "firstgeneration"}
# Drawn patterns of gnome-backgrounds: thousands of descriptors that repeat one another.
PATTERNS = {"grid", "pixels", "symbolic", "truchet"}

MIN_BYTES = 50_000  # smaller files are previews
MAX_SIDE = 4096  # pixels
THUMBNAIL = 16  # pixels a side
NEAR_DUPLICATE = 6.0  # mean difference of two thumbnails, in grey levels of 256
MIN_DESCRIPTORS = 500  # an image with fewer is a smooth gradient
CONTRAST_THRESHOLD = 0.008  # OpenCV's default is .04: we want the faint corners too
DIM = 128
K = 100
SEED = 42


class Failure(Exception):
    """Something that the user can act on."""


def say(message):
    print(message, file=sys.stderr, flush=True)


# --- Photographs -----------------------------------------------------------------------------------------------------


class Photo(NamedTuple):
    package: str
    name: str  # of the wallpaper, without its size: "Volna"
    path: Path


def fetch(package, work):
    """The folder that holds the package's files; downloads and unpacks it unless that was done before."""
    folder = work / "packages" / package
    if folder.is_dir():
        return folder
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise Failure(f"{tool} not found: run this on Debian or Ubuntu, or unpack {package} into {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Renamed only when complete: what an interrupt leaves is never mistaken for a package.
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        say(f"fetching {package}")
        command(["apt-get", "download", "-qq", package], scratch, "run `apt-get update` as root, and check the network")
        archive = next(Path(scratch).glob("*.deb"))
        version = archive.name.split("_")[1].replace("%3a", ":")
        if version != PACKAGES[package]:
            say(f"warning: {package} is {version}, not {PACKAGES[package]}: its photographs may differ")
        unpacked = Path(scratch) / "unpacked"
        unpacked.mkdir()
        command(["dpkg-deb", "-x", str(archive), str(unpacked)], scratch, "is the disk full?")
        os.rename(unpacked, folder)
    return folder


def command(words, folder, advice):
    outcome = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if outcome.returncode != 0:
        raise Failure(f"`{' '.join(words)}` failed: {advice}\n{(outcome.stdout + outcome.stderr).strip()}")


def list_photos(package, folder):
    """The package's candidates, in order of path: image files proper (no links), large enough, no drawn patterns."""
    photos = []
    for path in sorted(folder.rglob("*"), key=str):
        if path.is_symlink() or not path.is_file() or path.suffix.lower() not in SUFFIXES:
            continue
        if path.stat().st_size < MIN_BYTES:
            continue
        # .../wallpapers/NAME/contents/images/5120x2880.jpg, or .../NAME.jpg
        parts = path.relative_to(folder).parts
        name = parts[parts.index("contents") - 1] if "contents" in parts else path.stem
        if package == "gnome-backgrounds" and name.split("-")[0] in PATTERNS:
            continue
        photos.append(Photo(package, name, path))
    return photos


# --- Descriptors -----------------------------------------------------------------------------------------------------


class Describer:
    """Thumbnails and descriptors of images, computed once and kept in a folder."""

    def __init__(self, cache):
        self.cache = cache
        self.computed = 0
        cache.mkdir(parents=True, exist_ok=True)

    def thumbnail(self, photo):
        """(16, 16) f32, grey levels."""
        side = (THUMBNAIL, THUMBNAIL)
        return self._cached(
            photo, f"thumbnail {side}", lambda: cv2.resize(read_grey(photo), side, interpolation=cv2.INTER_AREA)
        ).astype(np.float32)

    def descriptors(self, photo):
        """(n, 128) u8, in OpenCV's order."""
        return self._cached(photo, f"sift {CONTRAST_THRESHOLD} {MAX_SIDE}", lambda: sift(read_grey(photo)))

    def _cached(self, photo, settings, compute):
        content = hashlib.sha256(photo.path.read_bytes()).hexdigest()
        key = hashlib.sha256(f"{content} {settings} OpenCV {cv2.__version__}".encode()).hexdigest()[:32]
        path = self.cache / f"{key}.npy"
        if path.exists():
            return np.load(path)
        value = compute()
        partial = path.with_suffix(".partial")
        with open(partial, "wb") as file:
            np.save(file, value)
        os.replace(partial, path)
        self.computed += 1
        return value


def read_grey(photo):
    image = cv2.imread(str(photo.path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise Failure(f"OpenCV {cv2.__version__} cannot read {photo.path}")
    return image


def sift(image):
    """(height, width) u8 -> (n, 128) u8. OpenCV's descriptors are whole numbers of 0..255 stored as floats."""
    scale = MAX_SIDE / max(image.shape)
    if scale < 1:
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, descriptors = cv2.SIFT_create(contrastThreshold=CONTRAST_THRESHOLD).detectAndCompute(image, None)
    return np.zeros((0, DIM), np.uint8) if descriptors is None else descriptors.astype(np.uint8)


def describe(photos, describer, limit=None):
    """Two lists of (n, 128) u8, one array a photograph: of the base, and of the queries.

    Passed over: near-duplicates of an earlier photograph (other sizes of it, mostly), and all but the first `limit`
    photographs of the base.
    """
    base, queries, seen = [], [], []
    for number, photo in enumerate(photos, 1):
        is_query = photo.name in QUERY_PHOTOS
        if not is_query and limit is not None and len(base) >= limit:
            continue
        label = f"[{number:3}/{len(photos)}] {photo.package} {photo.name} {photo.path.name}"
        thumbnail = describer.thumbnail(photo)
        if any(np.abs(thumbnail - other).mean() < NEAR_DUPLICATE for other in seen):
            say(f"{label}: skipped, near-duplicate")
            continue
        seen.append(thumbnail)
        started = time.monotonic()
        descriptors = describer.descriptors(photo)
        if len(descriptors) < MIN_DESCRIPTORS:
            say(f"{label}: skipped, only {len(descriptors)} descriptors")
            continue
        use = "queries" if is_query else "base"
        say(f"{label}: {len(descriptors):,} descriptors, {use}, {time.monotonic() - started:.1f} s")
        (queries if is_query else base).append(descriptors)
    return base, queries


# --- Rows and truth --------------------------------------------------------------------------------------------------


def as_keys(rows):
    """(n, d) u8 -> (n,) of one opaque value a row, so that rows can be sorted and compared."""
    return np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1]))).ravel()


def split(base, queries, wanted, seed):
    """Distinct rows of the base, shuffled; and `wanted` distinct queries, none of which is a row of the base."""
    if not base or not queries:
        raise Failure("no photographs were found: remove the working folder and try again")
    rng = np.random.default_rng(seed)
    base = np.unique(as_keys(np.concatenate(base)))
    queries = np.setdiff1d(as_keys(np.concatenate(queries)), base)
    if len(queries) < wanted:
        raise Failure(f"the query photographs give {len(queries):,} descriptors: ask for fewer with --queries")
    rows = [keys[rng.permutation(len(keys))].view(np.uint8).reshape(-1, DIM) for keys in (base, queries)]
    return rows[0], rows[1][:wanted]


def nearest(queries, base, k, query_block=512, base_block=16_384):
    """The exact k nearest by (distance, row): ids (q, k) i32 and squared distances (q, k) f32. Twin: `nearest_plain`.

    A block of products at a time; of these only what beats a query's k-th so far is looked at again. Every sum is of
    whole numbers and stays within 2^24, so f32 is exact here.
    """
    assert base.dtype == queries.dtype == np.uint8 and 4 * base.shape[1] * 255**2 < 2**25 and base_block >= k
    ids = np.empty((len(queries), k), np.int32)
    squared = np.empty((len(queries), k), np.float32)
    base_norms = np.square(base, dtype=np.float32).sum(axis=1)
    for first in range(0, len(queries), query_block):
        block = queries[first : first + query_block].astype(np.float32)
        norms = np.square(block).sum(axis=1, keepdims=True)
        # Scores are distances less the query's own norm, which orders nothing.
        best = np.full((len(block), k), np.inf, np.float32)
        best_ids = np.full((len(block), k), -1, np.int32)
        for start in range(0, len(base), base_block):
            scores = (-2 * block) @ base[start : start + base_block].astype(np.float32).T
            scores += base_norms[start : start + base_block]
            if start == 0:
                better = scores <= np.partition(scores, k - 1, axis=1)[:, k - 1 : k]
            else:
                better = scores < best[:, -1:]  # strictly: at equal distance the earlier row stays
            rows, columns = np.nonzero(better)
            counts = np.bincount(rows, minlength=len(block))
            slots = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
            width = k + counts.max()
            merged = np.full((len(block), width), np.inf, np.float32)
            merged_ids = np.full((len(block), width), -1, np.int32)
            merged[:, :k], merged_ids[:, :k] = best, best_ids
            merged[rows, k + slots], merged_ids[rows, k + slots] = scores[rows, columns], start + columns
            order = np.argsort(merged, axis=1, kind="stable")[:, :k]
            best, best_ids = np.take_along_axis(merged, order, 1), np.take_along_axis(merged_ids, order, 1)
        ids[first : first + len(block)] = best_ids
        squared[first : first + len(block)] = best + norms
        if sys.stderr.isatty():
            print(f"\rtruth: {first + len(block):,} of {len(queries):,} queries", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return ids, squared


def nearest_plain(queries, base, k):
    """`nearest`, the obvious way: for tests."""
    differences = queries[:, None, :].astype(np.int64) - base[None, :, :].astype(np.int64)
    squared = np.square(differences).sum(axis=2)
    ids = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return ids.astype(np.int32), np.take_along_axis(squared, ids, 1).astype(np.float32)


# --- The file --------------------------------------------------------------------------------------------------------


def write(path, base, queries, ids, squared, small):
    """Writes the file under another name and renames it. `small`: the layout of the embedded demo, f32 and shuffled."""
    dtype = np.float32 if small else np.uint8
    distances = np.sqrt(squared.astype(np.float64)).astype(np.float32)
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(partial, "w") as file:
        file.attrs.update(type="dense", distance="euclidean", dimension=DIM, point_type="float")
        chunk_rows = min(len(base), 1000 if small else 4096)
        file.create_dataset(
            "train",
            data=base.astype(dtype),
            chunks=(chunk_rows, DIM),
            compression="gzip",
            compression_opts=9 if small else 6,
            shuffle=small,
        )
        for name, data in (("test", queries.astype(dtype)), ("neighbors", ids), ("distances", distances)):
            file.create_dataset(name, data=data, chunks=True, compression="gzip", compression_opts=4, shuffle=small)
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def make(photos, describer, out, limit, rows, queries, seed):
    base, query_pool = split(*describe(photos, describer, limit), queries, seed)
    if rows is not None:
        if rows > len(base):
            raise Failure(f"--rows {rows}: there are only {len(base):,}")
        base = base[:rows]
    if len(base) < K:
        raise Failure(f"{len(base)} rows cannot give {K} neighbours: ask for more with --rows or --limit")
    started = time.monotonic()
    say(f"truth: {len(query_pool):,} queries over {len(base):,} rows")
    ids, squared = nearest(query_pool, base, K)
    say(f"truth: {time.monotonic() - started:.0f} s")
    write(out, base, query_pool, ids, squared, small=rows is not None)
    say(f"{out}: {len(base):,} x {DIM}, {len(query_pool):,} queries, {out.stat().st_size:,} bytes")


# --- Tests -----------------------------------------------------------------------------------------------------------


def selftest():
    """The whole way from images to the file, on made-up images; no network."""
    rng = np.random.default_rng(7)

    # Few values, so that many distances are equal.
    for n, q, k, top in ((300, 40, 10, 3), (257, 5, 100, 256), (100, 3, 100, 2)):
        base, queries = (rng.integers(0, top, (count, DIM), dtype=np.uint8) for count in (n, q))
        base[n // 2] = base[0]
        fast, plain = nearest(queries, base, k, query_block=7, base_block=max(k, 64)), nearest_plain(queries, base, k)
        assert all(np.array_equal(a, b) for a, b in zip(fast, plain)), f"nearest: {n} rows, {q} queries, k {k}"

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        images = folder / "gnome-backgrounds"
        wallpaper = images / "Volna" / "contents" / "images"
        wallpaper.mkdir(parents=True)

        def noise(path, size=(320, 400)):
            coarse = rng.integers(0, 256, (size[0] // 10, size[1] // 10), dtype=np.uint8)
            # Noise at two scales, stored without compression so that the file is large enough.
            image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC) // 2
            image += rng.integers(0, 128, size, dtype=np.uint8)
            assert cv2.imwrite(str(path), image, [cv2.IMWRITE_PNG_COMPRESSION, 0])
            return image

        first = noise(images / "a.png")
        larger = cv2.resize(first, (800, 640), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(images / "a-large.png"), larger, [cv2.IMWRITE_PNG_COMPRESSION, 0])
        # "a-large" comes first in order of path, so "a" is the near-duplicate.
        noise(images / "b.png")
        noise(images / "grid-d.png")
        noise(images / "tiny.png", (30, 40))
        flat = np.full((400, 400), 200, np.uint8)
        cv2.imwrite(str(images / "flat.png"), flat, [cv2.IMWRITE_PNG_COMPRESSION, 0])
        noise(wallpaper / "400x320.png")
        (images / "link.png").symlink_to(images / "b.png")

        photos = list_photos("gnome-backgrounds", images)
        names = [photo.name for photo in photos]
        assert names == ["Volna", "a-large", "a", "b", "flat"], names

        describer = Describer(folder / "cache")
        base, queries = describe(photos, describer)
        assert len(base) == 2 and len(queries) == 1, f"{len(base)} base and {len(queries)} query photographs"
        assert np.array_equal(base[0], sift(larger)), "the descriptors of the first photograph"
        computed = describer.computed
        assert len(describe(photos, describer, limit=1)[0]) == 1, "limit"
        assert describer.computed == computed, "nothing is computed twice"

        # A duplicate within the base and a query that is in the base must both go.
        twice, stray = [base[0], base[1], base[0][:10]], [queries[0], base[1][:10]]
        rows, few = split(twice, stray, 50, seed=1)
        assert len(rows) == len(np.unique(np.concatenate(base), axis=0)), "distinct rows"
        assert not np.isin(as_keys(few), as_keys(rows)).any(), "no query is in the base"
        assert np.array_equal(rows, split(twice, stray, 50, seed=1)[0]), "the shuffle is fixed"

        for wanted_rows, dtype in ((None, np.uint8), (200, np.float32)):
            out = folder / "out.hdf5"
            make(photos, describer, out, None, wanted_rows, 50, SEED)
            with h5py.File(out) as file:
                train, test = file["train"][:], file["test"][:]
                assert train.dtype == test.dtype == dtype and len(train) == (wanted_rows or len(rows)), "rows"
                assert dict(file.attrs) == dict(type="dense", distance="euclidean", dimension=DIM, point_type="float")
                ids, distances = file["neighbors"][:], file["distances"][:]
            assert ids.dtype == np.int32 and distances.dtype == np.float32 and ids.shape == (50, K), "truth"
            plain_ids, plain = nearest_plain(test.astype(np.uint8), train.astype(np.uint8), K)
            assert np.array_equal(ids, plain_ids), "neighbors in the file"
            assert np.allclose(distances, np.sqrt(plain), rtol=1e-6), "distances in the file"
        assert not list(folder.glob("*.partial")), "no partial file is left"


# ---------------------------------------------------------------------------------------------------------------------


def parse(arguments):
    def positive(text):
        number = int(text)
        if number < 1:
            raise ValueError
        return number

    parser = argparse.ArgumentParser(
        description="Make the photosift data set from freely licensed photographs.",
        epilog="Packages, thumbnails and descriptors stay in the working folder, so that a second run is quick.",
    )
    add = parser.add_argument
    add("--out", type=Path, metavar="FILE", help="the HDF5 file to write")
    add("--work", type=Path, metavar="DIR", default=Path("photosift-work"), help="working folder [%(default)s]")
    add("--limit", type=positive, metavar="N", help="only the first N photographs of the base: a quick try")
    add("--rows", type=positive, metavar="N", help="only the first N rows, in f32: the demo has 10000")
    add("--queries", type=positive, metavar="N", help="queries to write [10000; 500 with --rows]")
    add("--seed", type=int, metavar="N", default=SEED, help="of the shuffles [%(default)s]")
    add("--selftest", action="store_true", help="test this script on made-up images, and exit")
    options = parser.parse_args(arguments)
    if options.out is None and not options.selftest:
        parser.error("--out is required")
    return options


def main():
    options = parse(sys.argv[1:])
    if MISSING is not None:
        if options.selftest:
            say(f"SKIPPED: the self test of photosift.py did not run: {MISSING}. See scripts/datasets/requirements.txt")
            return 0
        say(f"error: {MISSING}. Run: pip install -r scripts/datasets/requirements.txt")
        return 1
    try:
        if options.selftest:
            with contextlib.redirect_stderr(io.StringIO()):
                selftest()
            say("photosift.py: self test passed")
            return 0
        photos = []
        options.work.mkdir(parents=True, exist_ok=True)
        for package in PACKAGES:
            photos += list_photos(package, fetch(package, options.work.resolve()))
        queries = options.queries or (500 if options.rows else 10_000)
        describer = Describer(options.work / "descriptors")
        make(photos, describer, options.out, options.limit, options.rows, queries, options.seed)
    except Failure as failure:
        say(f"error: {failure}")
        return 1
    except KeyboardInterrupt:
        say("interrupted: the same command continues from here")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
