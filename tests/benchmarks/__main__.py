"""`make bench`: our figures and what they are compared with, in one run on one machine."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from pathlib import Path

from tests.benchmarks import containers, ours, peers
from tests.benchmarks.measure import Row, table

_EVENTS = 100_000


def figures() -> list[Row]:
    """Every row. Peers and ours are measured one after another, so that the ratios hold where the times don't."""
    pool, spawn = peers.thread_pool(), peers.spawned_process()
    bare, isolated = peers.bare_interpreter(), peers.bare_interpreter("-I", "-S")
    lines, records = peers.json_lines(_EVENTS), peers.json_lines(_EVENTS, peers.RECORDS)
    with tempfile.TemporaryDirectory(prefix="ntj-bench-") as folder, ours.manager(Path(folder)) as running:
        threaded = ours.submit_to_result(running, "threaded", runs=100)
        ours.wait_until_warm(running)
        process = ours.submit_to_result(running, "subprocess", runs=15)
        rate = ours.jobs_per_second(running, "subprocess", count=40)
        many = ours.jobs_per_second(running, "threaded", count=500)
        events = ours.events_per_second(running, "subprocess", count=_EVENTS)
        busy = ours.events_per_second(running, "subprocess", count=_EVENTS, busy=True)
        logged = ours.events_per_second(running, "subprocess", count=_EVENTS, code=ours.RECORDS)
    return [
        Row("threaded: submit → result, durable", threaded, "bare ThreadPoolExecutor", pool),
        Row("subprocess: submit → result, durable", process, "multiprocessing, spawn", spawn),
        Row("subprocess: submit → result, durable", process, "`python -I -S` starts and ends", isolated),
        Row("threaded jobs", many, "ThreadPoolExecutor, one after another", 1 / pool, rate=True),
        Row("subprocess jobs", rate, "multiprocessing, spawn", 1 / spawn, rate=True),
        Row("events from a child to a subscriber, durable", events, "JSON lines, a pipe", lines, rate=True),
        Row("the same beside a busy main thread", busy, "JSON lines, a pipe", lines, rate=True),
        Row("records of `logging`, and their text on stderr", logged, "JSON lines of `logging`", records, rate=True),
        Row("first threaded job of a kernel", ours.first_job("threaded"), "`python` starts and ends", bare),
        Row("first subprocess job of a kernel", ours.first_job("subprocess"), "`python` starts and ends", bare),
        Row("`import nodetool_jupyter`", ours.import_seconds("nodetool_jupyter"), "`import json`", _json()),
        Row("`%load_ext nodetool_jupyter`", ours.load_seconds("nodetool_jupyter"), "`%load_ext autoreload`", _reload()),
    ]


def in_containers() -> tuple[list[Row], str]:
    """The rows of the docker runner, or the sentence why there are none."""
    with containers.engine() as why, tempfile.TemporaryDirectory(prefix="ntj-bench-") as folder:
        return ([], f"Containers were not measured. {why}") if why else (containers.rows(Path(folder)), "")


def _json() -> float:
    return ours.import_seconds("json")


def _reload() -> float:
    return ours.load_seconds("autoreload")


if __name__ == "__main__":
    where = f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} processors"
    print(
        f"Medians of one run ({where}, {sys.platform}). Times move with the machine; the ratios are what to look at.\n"
    )
    only_containers = "containers" in sys.argv[1:]
    rows, remark = in_containers()
    print(table([*([] if only_containers else figures()), *rows]))
    if remark:
        print(f"\n{remark}")
