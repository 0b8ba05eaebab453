#!/bin/sh
# Ten thousand connections at once: with the default limit those past it are told so, and with a limit above it all
# are held; either way requests are answered meanwhile, and nothing stays behind.
#
#     scripts/serve/connections.sh [CONNECTIONS]
#
# Needs Python, and as many open files as connections ('ulimit -n').

set -eu
count=${1:-10000}
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

ulimit -n "$(ulimit -H -n)"
index "$work/served.kiln" --index vamana
for limit in 4096 $((count + 100)); do
  start "$work/served.kiln" --max-connections "$limit" --idle-timeout 120s
  before=$(resident)
  "${PYTHON:-python3}" - "$url" "$count" "$limit" <<'PYTHON'
import json, select, socket, sys, time, urllib.request

url, count, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
host, port = url.removeprefix("http://").rsplit(":", 1)
query = json.dumps({"queries": [[1.0] * 128]}).encode()


def ask(stream):
    head = f"POST /v1/search HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(query)}\r\n\r\n"
    stream.sendall(head.encode() + query)
    return stream.recv(65536).split(b" ", 2)[1]


first = socket.create_connection((host, int(port)))
assert ask(first) == b"200"
began = time.monotonic()
held = [socket.create_connection((host, int(port)), timeout=10) for _ in range(count)]
assert ask(first) == b"200", "a client that was there is not served"
time.sleep(1)
poll = select.poll()
for stream in held:
    poll.register(stream, select.POLLIN)
told = [fd for fd, _ in poll.poll(0)]
by_fd = {stream.fileno(): stream for stream in held}
answers = [by_fd[fd].recv(4096) for fd in told]
refused = sum(b"too-many-connections" in answer for answer in answers)
print(f"{count} connections in {time.monotonic() - began:.1f} s, limit {limit}: {len(told)} closed, {refused} of them told why")
assert len(told) >= count + 1 - limit if count >= limit else not told
sample = [stream for stream in held if stream.fileno() not in set(told)][:: max(1, limit // 50)]
assert all(ask(stream) == b"200" for stream in sample), "a held connection is not served"
PYTHON
  say "memory: $before KiB before, $(resident) KiB now; connections still open: $(metric kiln_connections)"
  kill -TERM "$server"
  wait "$server"
  server=
done
