"""The warm parent, without a supervisor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FORKS = """
import os, select, socket, sys
sys.path.insert(0, sys.argv[1])
from nodetool_jupyter.worker import start, zygote

assert start.become_reaper()
ours, theirs = socket.socketpair()
end = os._exit

def end_late(code):  # of the process in between: when the child has offered itself, if it ever does so soon
    if select.select([ours], [], [], 0.3)[0]:
        print("offered too soon", flush=True)
    end(code)

os._exit = end_late
zygote._wait_for_order = lambda orders: end(len(orders.recv(1)))
zygote._fork_idle(theirs, 1, ())
assert b'"pid"' in ours.recv(4096)
ours.close()
os.wait()
"""


def test_a_child_offers_itself_when_the_supervisor_has_adopted_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(ROOT)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
