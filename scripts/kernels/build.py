"""Compiles the CUDA kernels with NVRTC, and writes the manifest that says from what.

    python scripts/kernels/build.py build  SOURCES BUILT     compile, and replace what BUILT holds (needs the NVRTC wheels)
    python scripts/kernels/build.py verify SOURCES BUILT     compile again, and compare with what BUILT holds
    python scripts/kernels/build.py check  SOURCES BUILT     compare the sources with the manifest; compiles nothing
    python scripts/kernels/build.py --selftest

In: SOURCES/all.cu, which includes every other .cu file there. Out: a cubin for each real architecture, PTX for all later
ones, and manifest.json. `check` needs the standard library only. scripts/build_kernels.sh makes the environment for the
others.
"""

import argparse
import ctypes
import hashlib
import json
import re
import sys
import tempfile
from pathlib import Path

# What is embedded in the binary, all files together.
LARGEST_SET = 8 << 20

# File name: the architecture that NVRTC is asked for.
TARGETS = {
    "kiln.sm_80.cubin": "sm_80",
    "kiln.sm_90a.cubin": "sm_90a",
    "kiln.compute_80.ptx": "compute_80",
}

# No contraction: a fused multiply-add is written as __fmaf_rn, so that the CPU twins can do the same operations.
OPTIONS = ["--std=c++17", "--fmad=false", "--extra-device-vectorization", "--ptxas-options=-v"]

WHEELS = {
    "nvidia-cuda-nvrtc-cu12": "12.4.127",
    "nvidia-cuda-runtime-cu12": "12.4.127",
    "nvidia-cuda-nvcc-cu12": "12.4.131",
}


def source_hashes(sources):
    """SHA-256 of each file that goes into the kernels, by name, line ends as in the repository."""
    files = sorted(path for path in sources.iterdir() if path.suffix in (".cu", ".cuh"))
    return {path.name: hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest() for path in files}


def missing_includes(sources):
    """The .cu files that all.cu leaves out."""
    included = set(re.findall(r'^#include "([^"]+\.cu)"', (sources / "all.cu").read_text(), re.MULTILINE))
    return sorted({path.name for path in sources.glob("*.cu")} - included - {"all.cu"})


def check(sources, built):
    """What is wrong with the built files, in lines; nothing where they are those of the sources."""
    problems = [f"{name} is not included by all.cu" for name in missing_includes(sources)]
    path = built / "manifest.json"
    if not path.is_file():
        return problems + [f"there is no {path}"]
    manifest = json.loads(path.read_text())
    hashes = source_hashes(sources)
    for name in sorted(set(hashes) | set(manifest["sources"])):
        if hashes.get(name) != manifest["sources"].get(name):
            problems.append(f"{name} is not what the kernels were built from")
    total = 0
    for name, expected in manifest["files"].items():
        file = built / name
        data = file.read_bytes() if file.is_file() else b""
        total += len(data)
        if hashlib.sha256(data).hexdigest() != expected["sha256"]:
            problems.append(f"{name} is not what was built")
    if set(manifest["files"]) != set(TARGETS):
        problems.append(f"the manifest names {sorted(manifest['files'])}, not {sorted(TARGETS)}")
    if manifest["toolchain"] != WHEELS or manifest["options"] != OPTIONS:
        problems.append("the toolchain or its options are not those that the kernels were built with")
    if total >= LARGEST_SET:
        problems.append(f"the built files have {total} bytes; {LARGEST_SET} is the limit")
    return problems


class Nvrtc:
    """The few calls of libnvrtc that compiling takes."""

    def __init__(self):
        import nvidia.cuda_nvrtc  # the wheel is a package without code

        root = Path(list(nvidia.cuda_nvrtc.__path__)[0]).parent
        self.library = ctypes.CDLL(str(next((root / "cuda_nvrtc" / "lib").glob("libnvrtc.so.*"))))
        self.includes = [root / "cuda_runtime" / "include", root / "cuda_nvcc" / "include"]

    def call(self, name, *arguments):
        code = getattr(self.library, name)(*arguments)
        if code != 0:
            text = ctypes.c_char_p(ctypes.cast(self.library.nvrtcGetErrorString, ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_int))(code))
            raise RuntimeError(f"{name}: {text.value.decode()}")

    def version(self):
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}"

    def text(self, program, what):
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{what}", program, buffer)
        return buffer.raw

    def compile(self, sources, architecture):
        """The code for an architecture and what the compiler said."""
        program = ctypes.c_void_p()
        text = (sources / "all.cu").read_bytes()
        self.call("nvrtcCreateProgram", ctypes.byref(program), text, b"all.cu", 0, None, None)
        options = OPTIONS + [f"--gpu-architecture={architecture}", f"--include-path={sources}"]
        options += [f"--include-path={path}" for path in self.includes]
        encoded = [option.encode() for option in options]
        code = self.library.nvrtcCompileProgram(program, len(encoded), (ctypes.c_char_p * len(encoded))(*encoded))
        log = self.text(program, "ProgramLog").rstrip(b"\0").decode()
        if code != 0:
            raise SystemExit(f"error: the kernels do not compile for {architecture}:\n{log}")
        if architecture.startswith("sm_"):
            return self.text(program, "CUBIN"), log
        return self.text(program, "PTX").rstrip(b"\0"), log


def resources(log):
    """Registers, stack frame and spilled bytes of each kernel, from ptxas -v."""
    kernels, name = {}, None
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name = match[1]
            kernels[name] = {}
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            if name is not None:
                kernels[name]["spilled"] = int(match[2]) + int(match[3])
        elif match := re.search(r"Used (\d+) registers(.*)", line):
            if name is not None:
                kernels[name]["registers"] = int(match[1])
                shared = re.search(r"(\d+) bytes smem", match[2])
                kernels[name]["shared"] = int(shared[1]) if shared else 0
    return dict(sorted(kernels.items()))


def build(sources, built):
    """Compiles into `built`; returns the manifest."""
    problems = missing_includes(sources)
    if problems:
        raise SystemExit(f"error: all.cu does not include {', '.join(problems)}")
    nvrtc = Nvrtc()
    built.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, architecture in TARGETS.items():
        code, log = nvrtc.compile(sources, architecture)
        warnings = [line for line in log.splitlines() if "warning" in line.lower()]
        for line in warnings:
            print(f"{architecture}: {line}", file=sys.stderr)
        (built / name).write_bytes(code)
        files[name] = {
            "architecture": architecture,
            "bytes": len(code),
            "sha256": hashlib.sha256(code).hexdigest(),
        }
        kernels = resources(log)
        if kernels:
            files[name]["kernels"] = kernels
    manifest = {
        "nvrtc": nvrtc.version(),
        "toolchain": WHEELS,
        "options": OPTIONS,
        "sources": source_hashes(sources),
        "files": files,
    }
    total = sum(file["bytes"] for file in files.values())
    if total >= LARGEST_SET:
        raise SystemExit(f"error: the built files have {total} bytes; {LARGEST_SET} is the limit")
    (built / "manifest.json").write_text(format_manifest(manifest))
    return manifest


def format_manifest(manifest):
    """JSON with one line a kernel."""
    text = json.dumps(manifest, indent=1)
    return re.sub(r"\{\s+(\"(?:spilled|registers|shared)\"[^{}]*?)\s+\}", lambda m: "{" + re.sub(r"\s+", " ", m[1]) + "}", text) + "\n"


def summary(manifest):
    for name, file in manifest["files"].items():
        kernels = file.get("kernels", {})
        print(f"{name}: {file['bytes']:,} bytes" + (f", {len(kernels)} kernels" if kernels else ""))
        for kernel, used in kernels.items():
            if used.get("spilled", 0) > 0:
                print(f"  {kernel} spills {used['spilled']} bytes ({used.get('registers')} registers)")


def verify(sources, built):
    problems = check(sources, built)
    with tempfile.TemporaryDirectory() as folder:
        again = build(sources, Path(folder))
        manifest = json.loads((built / "manifest.json").read_text()) if not problems else {"files": {}}
        for name, file in again["files"].items():
            if manifest["files"].get(name, {}).get("sha256") != file["sha256"]:
                problems.append(f"{name} comes out differently")
    return problems


def selftest():
    log = (
        "ptxas info    : Compiling entry function 'a_kernel' for 'sm_80'\n"
        "ptxas info    : Function properties for a_kernel\n"
        "    0 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads\n"
        "ptxas info    : Used 40 registers, 1024 bytes smem, 384 bytes cmem[0]\n"
    )
    assert resources(log) == {"a_kernel": {"spilled": 12, "registers": 40, "shared": 1024}}
    with tempfile.TemporaryDirectory() as folder:
        sources, built = Path(folder) / "cuda", Path(folder) / "built"
        sources.mkdir()
        built.mkdir()
        (sources / "all.cu").write_text('#include "one.cu"\n')
        (sources / "one.cu").write_text("int one;\n")
        (sources / "two.cu").write_text("int two;\n")
        assert missing_includes(sources) == ["two.cu"]
        (sources / "two.cu").unlink()
        files = {}
        for name in TARGETS:
            (built / name).write_bytes(name.encode())
            files[name] = {"sha256": hashlib.sha256(name.encode()).hexdigest()}
        manifest = {"toolchain": WHEELS, "options": OPTIONS, "sources": source_hashes(sources), "files": files}
        (built / "manifest.json").write_text(format_manifest(manifest))
        assert check(sources, built) == []
        (sources / "one.cu").write_text("int uno;\n")
        assert check(sources, built) == ["one.cu is not what the kernels were built from"]
        (built / "kiln.sm_80.cubin").write_bytes(b"")
        assert "kiln.sm_80.cubin is not what was built" in check(sources, built)
    print("build.py: self-test passed")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--selftest", action="store_true", help="test this script itself")
    parser.add_argument("action", nargs="?", choices=["build", "verify", "check", "wheels"])
    parser.add_argument("sources", nargs="?", type=Path)
    parser.add_argument("built", nargs="?", type=Path)
    arguments = parser.parse_args()
    if arguments.selftest:
        return selftest()
    if arguments.action == "wheels":
        return print(" ".join(f"{name}=={version}" for name, version in WHEELS.items()))
    if arguments.action is None or arguments.built is None:
        parser.error("an action and two folders, or --selftest")
    if arguments.action == "build":
        return summary(build(arguments.sources, arguments.built))
    problems = (verify if arguments.action == "verify" else check)(arguments.sources, arguments.built)
    for problem in problems:
        print(f"kernels/cuda: {problem}", file=sys.stderr)
    if problems:
        sys.exit("error: the embedded CUDA kernels are stale: run scripts/build_kernels.sh and commit kernels/cuda/built")
    print("the embedded CUDA kernels are those of the sources")


if __name__ == "__main__":
    main()
