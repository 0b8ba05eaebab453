"""Runs ray_build.py on a Ray cluster of three nodes on this machine, and kills one of them midway: see test_ray.sh."""

import os
import subprocess
import sys
import threading
import time

import ray
from ray.cluster_utils import Cluster

folder = sys.argv[1]
here = os.path.dirname(os.path.abspath(__file__))
work = os.path.join(folder, "work")

memory = {"object_store_memory": 80 * 1024 * 1024}
# The head only schedules: it is the two others that make units, each two at a time.
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **memory})
nodes = [cluster.add_node(num_cpus=2, **memory) for _ in range(2)]
cluster.wait_for_nodes()
killed = threading.Event()


def kill_midway():
    """Kills a node once some units of the longest stage are there, and others are being made."""
    while not any(name.startswith("leaves-") and "." not in name for name in os.listdir(work)):
        time.sleep(0.02)
    cluster.remove_node(nodes[0], allow_graceful=False)
    killed.set()
    print("killed a node", file=sys.stderr, flush=True)


threading.Thread(target=kill_midway, daemon=True).start()
ran = subprocess.run(
    [sys.executable, os.path.join(here, "ray_build.py"), "--address", cluster.address, "--work", work]
    + ["--out", os.path.join(folder, "ray.kiln"), "--device", "cpu", "--cpus", "1"]
)
cluster.shutdown()
if ran.returncode != 0:
    sys.exit(f"error: ray_build.py ended with exit code {ran.returncode}")
if not killed.is_set():
    sys.exit("error: no node was killed: give more rows")
