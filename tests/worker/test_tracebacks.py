from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.worker.driving import Ran

Run = Callable[..., Ran]


def shown(ran: Ran) -> str:
    return re.sub(r"\x1b\[\d+m", "", "\n".join(ran.raised.traceback))


def test_the_cells_own_lines_are_shown_and_none_of_ours(run: Run) -> None:
    text = shown(run("def divide(n):\n    return 1 / n\n\ndivide(0)"))
    assert "Cell, line 4\n" in text
    assert "----> 4 divide(0)" in text
    assert "Cell, line 2 in divide" in text
    assert "----> 2     return 1 / n" in text
    assert text.endswith("ZeroDivisionError: division by zero")
    assert "nodetool_jupyter" not in text
    assert "\x1b[" in "\n".join(run("1 / 0").raised.traceback)


def test_frames_of_libraries_are_shown_with_their_file(run: Run) -> None:
    text = shown(run("import json\njson.loads('{')"))
    assert re.search(r"File .*json/decoder\.py, line \d+ in JSONDecoder\.raw_decode", text)
    assert "JSONDecodeError: Expecting property name" in text


def test_the_cause_comes_first(run: Run) -> None:
    text = shown(run("try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise ValueError('bad') from error"))
    assert text.index("ZeroDivisionError") < text.index("direct cause") < text.index("ValueError: bad")


def test_a_context_that_was_suppressed_is_not_shown(run: Run) -> None:
    text = shown(run("try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise ValueError('bad') from None"))
    assert "division by zero" not in text


def test_a_chain_that_bites_its_tail_ends(run: Run) -> None:
    code = "a, b = ValueError('a'), ValueError('b')\na.__cause__, b.__cause__ = b, a\nraise a"
    assert shown(run(code)).count("ValueError: ") == 2


def test_a_syntax_error_points_at_its_place(run: Run) -> None:
    ran = run("x = 1\ny = (")
    assert ran.raised.ename == "SyntaxError"
    assert "y = (" in shown(ran)
    assert "^" in shown(ran)
    assert "nodetool" not in shown(ran)


def test_deep_recursion_is_cut_in_the_middle(run: Run) -> None:
    text = shown(run("def f(): f()\nf()"))
    assert "RecursionError" in text
    assert re.search(r"\.\.\. \d+ frames \.\.\.", text)
    assert len(text) < 20_000


def test_notes_and_groups_are_shown(run: Run) -> None:
    code = (
        "error = ValueError('inner')\nerror.add_note('look here')\n"
        "raise ExceptionGroup('several', [error, TypeError('other')])"
    )
    text = shown(run(code))
    for part in ("several", "inner", "look here", "other"):
        assert part in text


def test_code_of_an_async_cell_is_shown_without_the_machinery(run: Run) -> None:
    text = shown(run("import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    1 / 0\nawait f()"))
    assert "----> 4     1 / 0" in text
    assert "/asyncio/" not in text


def test_the_cells_source_is_known_to_inspect_and_traceback(run: Run) -> None:
    code = (
        "import inspect, traceback\ndef f():\n    1 / 0\ntry:\n    f()\n"
        "except ZeroDivisionError:\n    text = traceback.format_exc()\n"
        "(inspect.getsource(f), '1 / 0' in text)"
    )
    assert run(code).value() == ("def f():\n    1 / 0\n", True)


def test_code_that_left_no_descriptor_has_its_traceback_all_the_same(run: Run) -> None:
    code = "import os\nopened = []\nwhile True: opened.append(os.open('/dev/null', os.O_RDONLY))"
    ran = run(f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))\n{code}")
    assert ran.raised.ename == "OSError"
    assert "line 5" in shown(ran)


def test_files_beside_a_job_that_are_called_as_modules_of_python_take_no_part_in_its_traceback(
    run: Run, tmp_path: Path
) -> None:
    for name in ("traceback", "linecache", "tokenize", "textwrap"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(3)")
    ran = run(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n1 / 0")
    assert ran.raised.ename == "ZeroDivisionError"
    assert "line 3" in shown(ran)
