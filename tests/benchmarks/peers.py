"""What people have without this package, and the floors below which nothing can go."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tests.benchmarks.measure import median_seconds


def thread_pool() -> float:
    """A trivial call through a bare thread pool."""
    with ThreadPoolExecutor(1) as pool:
        return median_seconds(lambda: pool.submit(eval, "1 + 1").result(), runs=500, warm=50)


SPAWN = """
import multiprocessing, statistics, time
context = multiprocessing.get_context("spawn")
taken = []
for _ in range(6):
    start = time.perf_counter()
    with context.Pool(1) as pool:
        pool.apply(abs, (1,))
    taken.append(time.perf_counter() - start)
print(statistics.median(taken[1:]))
"""


def spawned_process() -> float:
    """A trivial call in a process that `multiprocessing` spawns for it, from a main program without imports."""
    done = subprocess.run([sys.executable, "-c", SPAWN], check=True, capture_output=True, text=True, timeout=60)
    return float(done.stdout)


def bare_interpreter(*flags: str) -> float:
    """An interpreter that starts and ends."""
    return median_seconds(lambda: subprocess.run([sys.executable, *flags, "-c", ""], check=True), runs=15)


LINES = "import json, sys\nfor i in range({}): sys.stdout.write(json.dumps({{'type': 'log', 'n': i}}) + '\\n')"
RECORDS = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format='{{"name": "%(name)s", "content": "%(message)s"}}')
for i in range({}): logging.getLogger().warning("record %d", i)
"""


def json_lines(count: int, child: str = LINES) -> float:
    """Lines of JSON per second from a child through a pipe, decoded and dropped."""
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", child.format(count)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        seen = sum(1 for line in process.stdout if json.loads(line))
    assert seen == count
    return count / (time.perf_counter() - start)
