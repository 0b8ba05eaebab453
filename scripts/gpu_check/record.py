"""Gathers what the stages of run.sh left in a folder into record.json and record.md.

    record.py BUNDLE RESULTS
    record.py --list [--check]     writes reports/gpu/README.md: which record last proved each kernel; --check compares
    record.py --selftest
"""

import datetime
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

TAIL = 40  # lines of output kept of a stage that failed


def gather(bundle, results):
    """Everything of one run, as record.json holds it."""
    stages = {}
    for path in sorted(results.glob("*.done")):
        stages[path.stem] = {"ok": True, "seconds": int(path.read_text())}
    for path in sorted(results.glob("*.failed")):
        code, seconds = path.read_text().split()
        log = (results / f"{path.stem}.log").read_text(errors="replace").splitlines()
        stages[path.stem] = {"ok": False, "exit_code": int(code), "seconds": int(seconds), "output": log[-TAIL:]}
    figures = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json")) if path.stem != "record"}
    log = results / "conformance.log"
    return {
        "written": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": (bundle / "commit.txt").read_text().strip(),
        "kernels": json.loads((bundle / "manifest.json").read_text()),
        "gpu": gpu(),
        "stages": stages,
        "conformance": conformance(log.read_text(errors="replace")) if log.exists() else None,
        "figures": figures,
    }


def gpu():
    """Name, driver and memory, as the driver's own tool says."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown: {error}"


def conformance(log):
    """Test -> whether it passed, from the output of the test program."""
    return {name: verdict == "ok" for name, verdict in re.findall(r"^test (\S+) \.\.\. .*?\b(ok|FAILED)$", log, re.MULTILINE)}


def markdown(record):
    lines = [f"# GPU record: {record['gpu']}", "", f"{record['written']}, commit {record['commit']}.", "", "## Stages", ""]
    lines += ["| stage | | seconds |", "|---|---|---|"]
    for name, stage in record["stages"].items():
        lines.append(f"| {name} | {'passed' if stage['ok'] else 'FAILED'} | {stage['seconds']} |")
    tests = record["conformance"] or {}
    if tests:
        failed = [name for name, ok in tests.items() if not ok]
        lines += ["", f"Conformance: {len(tests) - len(failed)} of {len(tests)} tests passed."]
        lines += [f"- FAILED: {name}" for name in failed]
    for name, figures in record["figures"].items():
        if name.startswith("kernels-"):
            lines += ["", f"## {name}: {figures['device']}", ""]
            lines += ["| stage | ms | T op/s | GB/s | share of the ceiling | shape |", "|---|---|---|---|---|---|"]
            for row in figures["stages"]:
                lines.append(
                    f"| {row['stage']} | {1e3 * row['seconds']:.3f} | {row['operations_per_second'] / 1e12:.2f} |"
                    f" {row['bytes_per_second'] / 1e9:.1f} | {100 * row['share']:.0f}% | {row['shape']} |"
                )
        elif name == "roofline":
            lines += ["", "## Roofline, by PyTorch", ""] + [f"- {key}: {value}" for key, value in figures.items()]
        elif name.endswith(".batches"):
            queries = figures["dataset"]["queries"]
            lines += ["", f"## {name}: {queries:,} queries a call", ""]
            lines += ["| mode | on | search list | recall | queries a second | 95% interval |", "|---|---|---|---|---|---|"]
            for row in sorted(figures["rows"], key=lambda row: (row["mode"], row["params"]["search_list"])):
                qps, on = row["qps"], row["device"] or "cpu"
                lines.append(
                    f"| {row['mode']} | {on} | {row['params']['search_list']} | {row['recall']:.4f} |"
                    f" {qps['median']:,.0f} | {qps['lo']:,.0f} to {qps['hi']:,.0f} |"
                )
            lines += [f"- {row['mode']}: {row['why']}" for row in figures["left_out"]]
        elif "cpu_seconds" in figures:
            stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in figures["seconds"].items())
            lines += ["", f"## Build {name}", "", f"{figures['n']:,} x {figures['dim']} {figures['dtype']}, {figures['device']}."]
            lines += [f"Seconds: {stages}; CPU {figures['cpu_seconds']:.1f}."]
        elif "recall" in figures:
            lines.append(f"- {name}: recall {figures['recall']:.4f}, {figures['qps']['median']:.0f} queries a second")
    for name, figures in record["figures"].items():
        resident = record["figures"].get(name.replace(".streamed", ".cuda"))
        if name.endswith(".streamed") and resident:
            ratio = figures["seconds"]["total"] / resident["seconds"]["total"]
            lines += ["", f"{name}: {ratio:.2f} times the seconds of the build that is resident."]
    return "\n".join(lines) + "\n"


def write(bundle, results):
    record = gather(bundle, results)
    (results / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    (results / "record.md").write_text(markdown(record))
    print(results / "record.md", file=sys.stderr)


# --- The list of kernels ---------------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[2]

HEAD = """# GPU records

A record is what `scripts/gpu_check.sh` found on one machine: conformance of every stage against its plain twin, kernels
beside the measured ceilings, builds beside the processor's, and the roofline by PyTorch. Each lies in a folder of its own,
as `record.json` and `record.md`. This page is written by `scripts/gpu_check/record.py --list`, and `make test` compares it
with the kernels that are embedded.

Every kernel runs on the emulator (`kernels/cuda/emulate`) in every test run, which proves its logic and nothing of its
speed, its memory model or its compiler. The WGSL kernels run on a software Vulkan device there; no record of a hardware
adapter exists.
"""


def kernels_of(manifest):
    return sorted({name for file in manifest["files"].values() for name in file.get("kernels", {})})


def kernel_list(manifest, records):
    """The page. `records`: name -> record.json, oldest first."""
    proven = {}
    for name, record in records.items():
        tests = record["conformance"] or {}
        if tests and all(tests.values()):
            same = record["kernels"]["sources"] == manifest["sources"]
            for kernel in kernels_of(record["kernels"]):
                proven[kernel] = f"[{name}]({name}/record.md)" + ("" if same else ", from older sources")
    kernels = kernels_of(manifest)
    never = [kernel for kernel in kernels if kernel not in proven]
    lines = [HEAD, f"## Never yet run on hardware: {len(never)} of {len(kernels)} kernels", ""]
    lines += [f"- `{kernel}`" for kernel in never] or ["None."]
    lines += ["", "## Proven on hardware", ""]
    if len(never) < len(kernels):
        lines += ["| kernel | record |", "|---|---|"]
        lines += [f"| `{kernel}` | {proven[kernel]} |" for kernel in kernels if kernel in proven]
    else:
        lines += ["None."]
    return "\n".join(lines) + "\n"


def write_list(check):
    folder = ROOT / "reports" / "gpu"
    manifest = json.loads((ROOT / "kernels" / "cuda" / "built" / "manifest.json").read_text())
    found = [(json.loads(path.read_text()), path.parent.name) for path in folder.glob("*/record.json")]
    records = {name: record for record, name in sorted(found, key=lambda pair: pair[0]["written"])}
    page, text = folder / "README.md", kernel_list(manifest, records)
    if not check:
        page.write_text(text)
    elif not page.exists() or page.read_text() != text:
        print(f"error: {page} is out of date: run scripts/gpu_check/record.py --list", file=sys.stderr)
        return 1
    return 0


def selftest():
    file = {"kernels": {"a": {}, "b": {}}}
    manifest = {"files": {"x": file}, "sources": {"a.cu": "1"}}
    run = {"conformance": {"t": True}, "kernels": {"files": {"x": {"kernels": {"a": {}}}}, "sources": {"a.cu": "0"}}}
    page = kernel_list(manifest, {"h100": run, "broken": run | {"conformance": {"t": False}}})
    assert "hardware: 1 of 2 kernels\n\n- `b`\n" in page and "| `a` | [h100](h100/record.md), from older" in page, page
    with tempfile.TemporaryDirectory() as folder:
        bundle, results = Path(folder), Path(folder) / "results"
        results.mkdir()
        (bundle / "commit.txt").write_text("abc\n")
        (bundle / "manifest.json").write_text("{}")
        (results / "kernels.done").write_text("12\n")
        (results / "exact.failed").write_text("1 3\n")
        (results / "exact.log").write_text("error: it broke\n")
        (results / "conformance.log").write_text(
            "test cuda::nearest ... ok\ntest cuda::prune ... conformance: cuda: prune runs on x\nok\ntest cuda::x ... FAILED\n"
        )
        row = dict(stage="nearest", shape="s", seconds=0.5, operations_per_second=1e12, bytes_per_second=1e9, share=0.25)
        (results / "kernels-128.json").write_text(json.dumps(dict(device="gpu", stages=[row])))
        built = dict(n=10, dim=2, dtype="u8", device="gpu", seconds=dict(leaves=1.0, total=2.0), cpu_seconds=3.0)
        (results / "base.cuda.json").write_text(json.dumps(built))
        (results / "base.streamed.json").write_text(json.dumps(built | dict(seconds=dict(leaves=1.5, total=2.5))))
        (results / "base.cuda.search-20.json").write_text(json.dumps(dict(recall=0.5, qps=dict(median=7.0))))
        answered = dict(mode="batch-device", device="cuda (x)", params=dict(search_list=16), recall=0.9, qps=dict(median=2e6, lo=1e6, hi=3e6))
        left_out = dict(mode="batch-device-resident", why="no device")
        batches = dict(dataset=dict(queries=10000), rows=[answered], left_out=[left_out])
        (results / "base.batches.json").write_text(json.dumps(batches))
        write(bundle, results)
        record = json.loads((results / "record.json").read_text())
        assert record["stages"]["exact"]["output"] == ["error: it broke"], record
        assert record["conformance"] == {"cuda::nearest": True, "cuda::x": False}, record["conformance"]
        text = (results / "record.md").read_text()
        for wanted in ["| exact | FAILED | 3 |", "1 of 2 tests", "| 25% |", "leaves 1.00", "recall 0.5000", "base.streamed: 1.25 times",
                       "| batch-device | cuda (x) | 16 | 0.9000 | 2,000,000 |", "- batch-device-resident: no device"]:
            assert wanted in text, (wanted, text)


if __name__ == "__main__":
    if sys.argv[1:] == ["--selftest"]:
        selftest()
    elif sys.argv[1:] in (["--list"], ["--list", "--check"]):
        sys.exit(write_list("--check" in sys.argv))
    elif len(sys.argv) == 3:
        write(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
