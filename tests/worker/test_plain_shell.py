"""Cells on a Python that has no IPython, as in most images: `!command` works there, and libraries find no notebook."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from tests.worker.driving import Ran

Run = Callable[..., Ran]
BARE = [path for path in sys.path if "-packages" not in path]
PACKAGES = [path for path in sys.path if "-packages" in path]
IN_A_CONTAINER = "import nodetool_jupyter.worker.container\n"


@pytest.fixture
def bare(run: Run) -> Run:
    """Run a cell, written as in a notebook, where IPython is not installed."""

    def run_bare(code: str, **options: object) -> Ran:
        return run(TransformerManager().transform_cell(code), frame={"sys_path": BARE}, **options)

    return run_bare


PROBES = """
import sys
library = type(sys)("library")
exec('''
import builtins, sys
def probe():
    try:
        return get_ipython()
    except NameError as error:
        return str(error)
found = [probe(), hasattr(builtins, "get_ipython"), "IPython" in sys.modules]
''', library.__dict__)
library.found
"""


def test_a_library_finds_no_get_ipython_where_the_cell_has_a_command(bare: Run) -> None:
    ran = bare("!true\n" + PROBES)
    assert ran.value() == ["name 'get_ipython' is not defined", False, False]


def test_a_library_finds_none_either_where_ipython_is_broken(run: Run) -> None:
    broken = "import sys\nclass Broken:\n    def find_spec(self, name, path=None, target=None):\n"
    broken += "        if name == 'IPython.core.interactiveshell': raise ImportError\n"
    broken += "sys.meta_path.insert(0, Broken())\n"
    ran = run(broken + "get_ipython().system('echo here')\n" + PROBES)
    assert ran.stdout == "here\n"
    assert ran.value()[0] == "name 'get_ipython' is not defined"


def test_a_cell_without_commands_has_no_get_ipython_of_its_own(bare: Run) -> None:
    assert bare("'get_' 'ipython' in globals()").value() is False


def test_commands_run_in_order_with_what_stands_in_them(bare: Run) -> None:
    ran = bare(
        "name, number = 'a b', 6\n"
        "print('first')\n"
        "!echo \"$name\" {number * 7} {name!r} $$UNSET {{x}} '$number'; echo wrong >&2; exit 3\n"
        "print('then', _exit_code)\n"
        "def within(number):\n"
        "    lines = !echo {number}; echo $number.real\n"
        "    return lines\n"
        "lines = !echo a; echo b >&2\n"
        "!echo a 1 | awk '{print $2}'\n"
        "[lines, within(2), _exit_code]"
    )
    assert ran.stdout == "first\na b 42 a b {x} $number\nwrong\nthen 3\n1\n"
    assert ran.value() == [["a", "b"], ["2", "2"], 0]


@pytest.mark.parametrize("line", ["!sleep 600 &", "x = !sleep 600 &"])
def test_a_command_in_the_background_is_refused_and_not_waited_for(bare: Run, line: str) -> None:
    raised = bare(line).raised
    assert (raised.ename, raised.evalue.partition(",")[0]) == ("OSError", "A command after ! is waited for")


def test_two_marks_show_the_lines(bare: Run) -> None:
    assert bare("!!echo a; echo b").value() == ["a", "b"]


def test_a_command_that_is_killed_has_the_signal_as_its_exit_code(bare: Run) -> None:
    assert bare("!kill -9 $$\n_exit_code").value() == -9


@pytest.mark.parametrize(
    ("code", "what"), [("%time 1", "%time"), ("%%bash\nls", "%%bash"), ("len?", "%pinfo"), ("x = %pwd", "%pwd")]
)
def test_a_magic_is_refused_with_where_to_install_ipython(bare: Run, code: str, what: str) -> None:
    assert bare(code).raised.evalue == (
        f"This cell uses {what}, and IPython is not installed for {sys.executable}. "
        "Install it there, or use plain Python."
    )


def test_in_a_container_the_remedy_is_that_of_containers(bare: Run) -> None:
    for code, what in (("%time 1", "%time"), ("get_ipython().kernel", "get_ipython().kernel")):
        assert bare(IN_A_CONTAINER + code).raised.evalue == (
            f"This cell uses {what}, and IPython is not installed in its container. "
            "Add --requirements ipython, choose an --image that has it, or use plain Python."
        )


def test_a_function_that_comes_back_uses_the_shell_that_is_there(bare: Run) -> None:
    pickles = f"import sys\nsys.path += {PACKAGES!r}\nimport cloudpickle\ndel sys.path[-{len(PACKAGES)}:]\n"
    find = bare(pickles + "def f():\n    !true\n    return get_ipython", outputs=("f",)).value("f")
    assert find.__globals__["get_ipython"].__module__.startswith("IPython.")


def test_ipython_that_comes_later_is_used(bare: Run) -> None:
    ran = bare(f"import sys\nsys.path += {PACKAGES!r}\n%pwd\nimport builtins\nget_ipython() is builtins.get_ipython()")
    assert ran.value() is True
