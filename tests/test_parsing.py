"""Two threads that parse at once, which Python 3.11 gets wrong: nobody's job may fail of it."""

from __future__ import annotations

import ast
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nodetool_jupyter.jobs import CodeWork, Job, JobRequest
from nodetool_jupyter.notebook.names import names_read
from nodetool_jupyter.runners.base import Parcel
from nodetool_jupyter.runners.process_warmth import Warmth
from nodetool_jupyter.worker.execute import Cell

CODE = "import json\ndef f(x):\n    return [i + x for i in range(10)]\n" * 50 + "f(y)"


@contextmanager
def a_neighbour() -> Iterator[None]:
    """Another thread parses in the middle of what this one does, where the collector lets it in."""
    visits = 0

    def visit(phase: str, info: object) -> None:
        nonlocal visits
        if phase == "start" and visits < 50:
            visits += 1
            thread = threading.Thread(target=ast.parse, args=("x + 1",))
            thread.start()
            thread.join()

    thresholds = gc.get_threshold()
    gc.collect()
    gc.callbacks.append(visit)
    gc.set_threshold(1)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(visit)


def test_a_cell_is_compiled_though_another_thread_parses() -> None:
    with a_neighbour():
        cell = Cell(CODE, "<cell>")
    assert cell.run({"y": 1}) == list(range(1, 11))


def test_the_names_of_a_cell_are_found_though_another_thread_parses() -> None:
    with a_neighbour():
        names = names_read(CODE)
    assert names == {"y", "range"}


def test_the_modules_of_a_job_are_learnt_though_another_thread_parses() -> None:
    request = JobRequest(work=CodeWork(CODE), runner="subprocess")
    job = Job(id="j", user="me", owner="o", request=request, created_at=0.0)
    with a_neighbour():
        order = Warmth(["python"]).learn(job, {}, Parcel())
    assert order is not None
    assert order["modules"] == ["json"]


@pytest.mark.parametrize(
    ("code", "modules"),
    [
        ("import a", ["a"]),
        ("import a.b as c, d ,e", ["a.b", "d", "e"]),
        ("x = 1; import a; import b  # and c", ["a", "b"]),
        ("\nif x:\n\timport a\nelse: import b", ["a", "b"]),
        ("from a.b import (c,\n    d)", ["a.b"]),
        ("from . import a\nfrom .b import c", []),
        ("important = 1\nfrom_x = important\nx.import_module('y')", []),
        ("this is no Python: (", []),
    ],
)
def test_the_modules_that_a_cell_imports_are_learnt(code: str, modules: list[str]) -> None:
    job = Job(id="j", user="me", owner="o", request=JobRequest(work=CodeWork(code)), created_at=0.0)
    order = Warmth(["python"]).learn(job, {}, Parcel())
    assert order is not None
    assert order["modules"] == modules
