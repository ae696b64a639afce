"""Cells in the grammar of a newer Python than the kernel's: which may run there, and what goes along."""

from __future__ import annotations

import ast
import sys
import threading

import pytest
from IPython.core.interactiveshell import InteractiveShell

from nodetool_jupyter.events import Isolation
from nodetool_jupyter.jobs import JobRequest
from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.notebook.newer_syntax import may_take, names_in
from nodetool_jupyter.notebook.session import current
from nodetool_jupyter.testing import ScriptedRunner
from tests.notebook.conftest import refused

NEWER, OLDER = f"3.{sys.version_info[1] + 1}.0", "3.9.1"
UNKNOWN = "type X = = rows"
"""In no Python's grammar so far, but who knows."""


class Elsewhere(ScriptedRunner):
    """A runner whose jobs have a Python of the test's own choice; "" for one that nobody knows."""

    def __init__(self, version: str) -> None:
        super().__init__(name="docker")
        self.version = version

    def speaks_other(self, request: JobRequest) -> str:
        return self.version

    def foresee(self, request: JobRequest) -> Isolation:
        return Isolation(runner=self.name, profile=request.profile.value, details={"python": self.version})


@pytest.fixture(params=[NEWER, ""], ids=["newer", "unknown"])
def elsewhere(request: pytest.FixtureRequest, shell: InteractiveShell) -> Elsewhere:
    runner = Elsewhere(request.param)
    current()._manager = JobExecutionManager(current().settings(), runners=[runner])
    return runner


def broken(code: str) -> SyntaxError:
    with pytest.raises(SyntaxError) as caught:
        ast.parse(code)
    return caught.value


@pytest.mark.parametrize(
    ("code", "may"),
    [
        (UNKNOWN, True),
        ("def f[[T]]: pass", True),
        ("print(1", False),
        ("a = (1]", False),
        ("x)", False),
        ("if 1:\nx", False),
    ],
)
def test_what_is_wrong_in_every_version_is_told_from_what_a_newer_one_may_take(code: str, may: bool) -> None:
    assert may_take(NEWER, broken(code), code) is may
    assert may_take("", broken(code), code) is may
    assert not may_take(OLDER, broken(code), code)


def test_brackets_in_strings_with_code_are_left_to_the_newer_version() -> None:
    assert may_take(NEWER, broken("x = (1"), "f'{d['(']}'")


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("type X = int | other", "type int other"),
        ("def f[T](a: T) -> T: return a.b + c  # d", "f T a c"),
        ("x = 1; y == z; w += 1", "y z w"),
        ("a = 'b \\' c'; e('''f\ng''', r\"h\")", "e"),
        ('print(f"{d["k"]}", y, "z", f\'{v = }\')', "print f d k y z v"),
        ("get_ipython().system('ls $folder')", "get_ipython ls folder"),
        ("größe.äh", "größe"),
        pytest.param("\\'" * 100_000, "", id="quotes without an end"),
    ],
)
def test_names_are_found_without_a_grammar(code: str, names: str) -> None:
    assert names_in(code) == set(names.split())


def test_a_cell_for_a_newer_python_takes_along_what_can_travel_and_says_what_can_not(
    elsewhere: Elsewhere, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.user_ns.update(rows=[1], lock=threading.Lock(), unused={1})
    shell.run_cell(f"%%nodetool -r docker\n{UNKNOWN}\nlock.x(rows)").raise_error()
    assert [value.name for value in elsewhere.parcels[0].inputs] == ["rows"]
    assert elsewhere.jobs[0].request.inputs == ("rows",)
    assert "Not sent, since only plain values travel to the job's Python: lock." in capsys.readouterr().err


def test_a_dry_run_of_it_tells_the_same(
    elsewhere: Elsewhere, shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.user_ns.update(rows=[1], lock=threading.Lock())
    shell.run_cell(f"%%nodetool -r docker --dry-run\n{UNKNOWN}\nlock.x(rows)").raise_error()
    shown = capsys.readouterr().out
    assert "inputs      rows (list" in shown
    assert "not sent    lock\n" in shown
    assert elsewhere.jobs == []


@pytest.mark.parametrize("options", ["", "--dry-run", "--in none"])
def test_a_slip_is_told_before_anything_starts(elsewhere: Elsewhere, shell: InteractiveShell, options: str) -> None:
    said = refused(shell, f"%%nodetool -r docker {options}\nprint(1")
    assert said.startswith("Line 2 of the cell is not valid Python: '(' was never closed. Nothing was started.")
    assert elsewhere.jobs == []


def test_named_variables_that_can_not_travel_are_refused(elsewhere: Elsewhere, shell: InteractiveShell) -> None:
    shell.user_ns.update(lock=threading.Lock())
    said = refused(shell, f"%%nodetool -r docker --in lock\n{UNKNOWN}")
    assert "Variable 'lock'" in said
    assert "between Python" in said
