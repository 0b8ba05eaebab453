"""A peer that needs nothing but Python, and can misbehave: `peer.py BEHAVIOUR`, where the setting asks for ef = 2."""

import ast
import json
import os
import signal
import struct
import sys
import time


def say(event, **facts):
    print(json.dumps({"event": event, **facts}), flush=True)


def read(path):
    with open(path, "rb") as file:
        bytes_ = file.read()
    (length,) = struct.unpack("<H", bytes_[8:10])
    header = ast.literal_eval(bytes_[10 : 10 + length].decode())
    rows, columns = header["shape"]
    assert header["descr"] == "<f4", header
    cells = struct.unpack(f"<{rows * columns}f", bytes_[10 + length :])
    return [cells[row * columns : (row + 1) * columns] for row in range(rows)]


def write(path, descr, rows, code):
    header = repr({"descr": descr, "fortran_order": False, "shape": (len(rows), len(rows[0]))})
    header += " " * (63 - (10 + len(header)) % 64) + "\n"
    cells = [cell for row in rows for cell in row]
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
        file.write(struct.pack(f"<{len(cells)}{code}", *cells))


def nearest(base, query, k):
    distance = lambda row: sum((a - b) ** 2 for a, b in zip(base[row], query))
    return sorted(range(len(base)), key=lambda row: (distance(row), row))[:k]


def misbehave_before(behaviour, base_path):
    if behaviour == "garbage":
        print("Loading the index ... done", flush=True)
    elif behaviour == "binary":
        os.write(1, b"\xff\xfe\x00\n")
    elif behaviour == "endless line":
        while True:
            os.write(1, b"x" * 65536)
    elif behaviour == "wrong event":
        say("built", seconds=0.001)
    elif behaviour == "sleep":
        time.sleep(600)
    elif behaviour == "close":
        os.close(1)
        time.sleep(600)
    elif behaviour == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif behaviour == "abort":
        os.abort()
    elif behaviour == "heir":
        if os.fork() == 0:
            time.sleep(600)  # and holds standard output all the while
        os.abort()
    elif behaviour == "exit":
        print("the disk is on fire", file=sys.stderr)
        sys.exit(3)
    elif behaviour == "memory":
        hoard = [bytearray(b"x" * (1 << 26)) for _ in range(64)]
        print(len(hoard), file=sys.stderr)
    elif behaviour == "mutate":
        with open(base_path, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x41")


def search(base, behaviour, command):
    queries, k = read(command["queries"]), command["k"]
    bad = behaviour if command["params"]["ef"] == 2 else None
    misbehave_before(bad, BASE)
    if bad == "die later" and "answers" not in command:
        os.abort()
    if bad == "say error":
        return say("error", reason="ef must be odd")
    seconds, latencies, told = [], [], 0
    while len(seconds) < command["passes"] or sum(seconds) < command["seconds"]:
        began, times, ids = time.perf_counter(), [], []
        for query in queries:
            started = time.perf_counter()
            # A smaller ef finds less.
            found = nearest(base[: len(base) if command["params"]["ef"] > 1 else len(base) // 2], query, k)
            times.append((time.perf_counter() - started) * 1e6)
            ids.append(found)
        seconds.append(time.perf_counter() - began)
        latencies.append(times)
    if bad == "too few ids":
        ids = [row[:-1] for row in ids]
    elif bad == "too few queries":
        ids = ids[:-1]
    elif bad == "too many":
        ids = [row + [0] for row in ids]
    elif bad == "negative":
        ids[1][0] = -7
    elif bad == "foreign":
        ids[1][2] = len(base)
    elif bad == "padded":
        ids = [row[:-1] + [-1] for row in ids]
    elif bad == "duplicate":
        ids = [[row[0]] * k for row in ids]
    elif bad == "slower than light":
        seconds = [-1.0 for _ in seconds]
    elif bad == "longer than it was":
        seconds = [1e6 for _ in seconds]
    elif bad == "fewer passes":
        seconds = []
    elif bad == "long latencies":
        latencies = [[1e9 for _ in times] for times in latencies]
    if "answers" in command and bad != "no answers":
        write(command["answers"], "<i8", ids, "q")
    if "latencies" in command:
        write(command["latencies"], "<f4", latencies, "f")
    say("searched", seconds=seconds)


behaviour = sys.argv[1]
if behaviour == "never starts":
    time.sleep(600)
say("ready", protocol=2 if behaviour == "other protocol" else 1, version="7.1")
for line in sys.stdin:
    command = json.loads(line)
    if command["do"] == "build":
        if behaviour == "build dies":
            sys.exit("no such luck")
        if behaviour == "builds slowly":
            time.sleep(4)
        BASE = command["base"]
        began = time.perf_counter()
        base = read(BASE)
        say("built", seconds=time.perf_counter() - began, index_bytes=1234)
    else:
        search(base, behaviour, command)
