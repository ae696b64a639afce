"""Cells of another process keep their name and lines on the way into a job."""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nodetool_jupyter.worker import sources
from nodetool_jupyter.worker.pickled import encode_input
from tests.worker.driving import Child

PLACE = "/tmp/ipykernel_1/23.py"
CODE = "# a remark\ndef divide(n):\n    return 1 / n\n"
MOST = 1 << 30


@pytest.fixture
def cells() -> Iterator[Callable[[str, str], None]]:
    """Make this process know a cell by file name and code."""
    made: list[str] = []

    def make(filename: str, code: str) -> None:
        made.append(filename)
        sources.remember(filename, code)

    yield make
    for filename in made:
        linecache.cache.pop(filename, None)


def function_of(filename: str, code: str = CODE) -> Any:
    """The function `divide` as a cell with this file name defines it."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, filename, "exec"), namespace)
    return namespace["divide"]


def test_a_traceback_in_a_job_shows_the_cell_that_a_function_came_from(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        child.give("divide", function_of(PLACE))
        child.run("divide(0)", filename="Cell In[4]", sources={PLACE: ("Cell In[3]", CODE)})
        [*_, raised] = child.rest()
    text = re.sub(r"\x1b\[\d+m", "", "\n".join(raised.traceback))
    assert "Cell In[4], line 1\n----> 1 divide(0)" in text
    assert "Cell In[3], line 3 in divide\n" in text
    assert "      2 def divide(n):\n----> 3     return 1 / n" in text
    assert "ipykernel" not in text


def test_a_job_can_inspect_a_function_of_another_cell(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        child.give("divide", function_of(PLACE))
        code = "import inspect\nprint(inspect.getsource(divide))"
        child.run(code, sources={PLACE: ("Cell In[3]", CODE)})
        child.printed("return 1 / n")


def test_the_files_are_those_of_the_code_that_travels_and_no_others(cells: Callable[[str, str], None]) -> None:
    cells("<in>", CODE)
    cells("<other>", CODE)
    files: set[str] = set()
    encode_input("x", [1, {"f": function_of("<in>"), "g": re.compile}], max_bytes=MOST, files=files)
    assert files == {"<in>"}
    encode_input("y", [1, 2.5, "<other>"], max_bytes=MOST, files=files)
    assert sources.gather(files) == {"<in>": ("", CODE)}


def test_sources_that_are_too_long_together_are_left_out(cells: Callable[[str, str], None]) -> None:
    cells("<a>", "#" * (sources.MOST_BYTES - 1000))
    cells("<b>", "#" * 2000)
    cells("<c>", "#" * 500)
    assert sources.gather(["<a>", "<b>", "<c>"]).keys() == {"<a>", "<c>"}


def test_a_file_and_what_nobody_knows_have_no_source_to_send() -> None:
    linecache.getline(__file__, 1)
    assert sources.gather([__file__, "<nowhere>"]) == {}


def test_a_traceback_makes_no_shell(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        code = "import atexit, IPython.core.interactiveshell\nfrom nodetool_jupyter.worker import shell\n"
        child.run(code + "atexit.register(lambda: print('shell:', shell.exists()))\n1 / 0")
        child.printed("shell: False")
