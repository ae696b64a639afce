from __future__ import annotations

import json
import platform
from collections.abc import Callable

import pytest

from nodetool_jupyter.events import ClearOutput, Display, Notification, Stream
from nodetool_jupyter.frames import Raised, Returned
from tests.worker.driving import Child, Ran

Run = Callable[..., Ran]


def test_the_last_expression_is_shown_and_comes_back(run: Run) -> None:
    ran = run("x = 20\nx + 22")
    assert [(display.data, display.result) for display in ran.displays] == [({"text/plain": "42"}, True)]
    assert ran.value() == 42
    assert isinstance(ran.terminal, Returned)
    assert ran.exit_code == 0


@pytest.mark.parametrize("code", ["1;", "(1);", "1 ; # why", "'ä'; ", "x = 1", "None", "", "# nothing"])
def test_a_cell_that_ends_in_no_expression_shows_nothing(run: Run, code: str) -> None:
    ran = run(code)
    assert ran.displays == []
    assert ran.of(Returned)


def test_an_assignment_to_a_string_with_a_semicolon_does_not_silence_the_next_line(run: Run) -> None:
    assert run("x = 'a;'\nx").value() == "a;"


def test_a_cell_can_await(run: Run) -> None:
    ran = run("import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 5\nx = await f()\nx + await f()")
    assert ran.value() == 10


def test_inputs_are_there_and_outputs_come_back(run: Run) -> None:
    ran = run("y = {'twice': [2 * n for n in x]}\nz = (1, {2})", x=[1, 2], outputs=("y", "z"))
    assert ran.value("y") == {"twice": [2, 4]}
    assert ran.value("z") == (1, {2})


def test_an_output_that_the_cell_did_not_define_is_named(run: Run) -> None:
    ran = run("a = 1", outputs=("a", "answer"))
    assert "'answer'" in ran.raised.evalue
    assert "--out" in ran.raised.evalue
    assert ran.exit_code == 1


def test_an_output_that_cannot_travel_is_named_with_its_type(run: Run) -> None:
    ran = run("import threading\nlock = threading.Lock()", outputs=("lock",))
    assert "'lock'" in ran.raised.evalue
    assert "_thread.lock" in ran.raised.evalue


def test_a_value_of_the_last_expression_that_cannot_travel_is_only_shown(run: Run) -> None:
    ran = run("(n for n in range(3))")
    assert "<generator object" in ran.displays[0].data["text/plain"]
    assert isinstance(ran.terminal, Returned)


def test_functions_and_classes_of_the_cell_come_back_and_work(run: Run) -> None:
    code = "class Point:\n    def __init__(self, x): self.x = x\ndef double(p): return Point(2 * p.x)\np = Point(4)"
    ran = run(code, outputs=("double", "p"))
    assert ran.value("double")(ran.value("p")).x == 8


def test_code_of_the_cell_does_not_come_back_from_another_interpreter(run: Run) -> None:
    ran = run("def f(): pass\nx = {(1, 2): {3}}", outputs=("x", "f"), frame={"sys_path": None, "by_value": False})
    assert ran.value("x") == {(1, 2): {3}}
    assert "f is defined in the cell" in ran.raised.evalue
    assert (
        "can't send code"
        in run("class C: pass\nc = [C()]", outputs=("c",), frame={"sys_path": None, "by_value": False}).raised.evalue
    )


def test_what_only_this_python_reads_does_not_go_to_a_notebook_of_another(run: Run) -> None:
    ran = run("x = [{1}]\ny = [object()]", outputs=("x", "y"), frame={"python": "3.9.1"})
    assert ran.value("x") == [{1}]
    between = f"between Python {platform.python_version()} there and 3.9.1 here"
    assert f"it holds an `object` at [0], and {between}" in ran.raised.evalue
    assert ran.raised.evalue.endswith("or run it with Python 3.9.")


def test_functions_and_objects_of_the_notebook_work_in_the_cell(run: Run) -> None:
    scope: dict[str, object] = {"__name__": "__main__"}
    exec("class Point:\n    x = 3\ndef area(p): return p.x ** 2", scope)
    assert run("area(p)", area=scope["area"], p=scope["Point"]()).value() == 9  # type: ignore[operator]


def test_the_cell_is_the_module_main(run: Run) -> None:
    code = (
        "import sys, pickle\nclass C: pass\n"
        "[__name__, sys.modules['__main__'].C is C, type(pickle.loads(pickle.dumps(C()))) is C]"
    )
    assert run(code).value() == ["__main__", True, True]


def test_secrets_are_in_the_environment(run: Run) -> None:
    assert run("import os\nos.environ['TOKEN']", frame={"secrets": {"TOKEN": "s3"}}).value() == "s3"


def test_the_path_of_the_kernel_is_taken(run: Run) -> None:
    import sys

    path = [*sys.path, "/somewhere/else"]
    assert run("import sys\nsys.path", frame={"sys_path": path}).value() == path


def test_commands_and_magics_run_in_order(run: Run) -> None:
    code = (
        "print('first')\n"
        "get_ipython().system('echo second {6 * 7}; exit 3')\n"
        "print('third', _exit_code)\n"
        "get_ipython().run_cell_magic('capture', 'caught', \"print('fourth')\\n\")\n"
        "listed = get_ipython().getoutput('echo a; echo b')\n"
        "[caught.stdout, *listed]"
    )
    ran = run(code)
    assert ran.stdout == "first\nsecond 42\nthird 3\n"
    assert ran.value() == ["fourth\n", "a", "b"]


def test_a_magic_works_on_the_variables_of_the_cell(run: Run) -> None:
    ran = run(
        "x = 4\nget_ipython().run_line_magic('timeit', '-n1 -r1 global y; y = x * 2')\nget_ipython().user_ns['x']"
    )
    assert ran.value() == 4
    assert "per loop" in ran.stdout


def test_without_ipython_a_magic_is_refused_in_one_sentence(run: Run) -> None:
    hide = "import sys\nclass Hide:\n    def find_spec(self, name, path=None, target=None):\n"
    hide += (
        "        if name.split('.')[0] == 'IPython': raise ModuleNotFoundError(name)\nsys.meta_path.insert(0, Hide())\n"
    )
    ran = run(hide + "get_ipython().run_line_magic('pwd', '')")
    assert ran.raised.ename == "RuntimeError"
    assert "IPython is not installed" in ran.raised.evalue


def test_without_ipython_rich_values_are_shown_all_the_same(run: Run) -> None:
    hide = "import sys\nclass Hide:\n    def find_spec(self, name, path=None, target=None):\n"
    hide += (
        "        if name.split('.')[0] == 'IPython': raise ModuleNotFoundError(name)\nsys.meta_path.insert(0, Hide())\n"
    )
    ran = run(
        hide + "class Rich:\n    def _repr_html_(self): return '<b>x</b>'\n"
        "    def __repr__(self): return 'x'\ndisplay(Rich())\nRich()"
    )
    assert [display.data for display in ran.displays] == [{"text/html": "<b>x</b>", "text/plain": "x"}] * 2


def test_displays_updates_and_clearing_become_reports(run: Run) -> None:
    code = """
from IPython.display import HTML, clear_output, display as show, update_display
display(HTML("<b>x</b>"))
handle = show("one", display_id="here")
handle.update("two")
update_display("three", display_id="here")
clear_output(wait=True)
"""
    ran = run(code)
    shown = ran.of(Display, ClearOutput)
    assert shown[0].data["text/html"] == "<b>x</b>"
    assert [(d.data["text/plain"], d.display_id, d.update) for d in shown[1:4]] == [
        ("'one'", "here", False),
        ("'two'", "here", True),
        ("'three'", "here", True),
    ]
    assert shown[4] == ClearOutput(wait=True)


def test_prints_and_displays_keep_their_order(run: Run) -> None:
    ran = run("for n in range(20):\n    print(n)\n    display({'n': n}, raw=True) if n % 2 else display(n)")
    kinds = [type(report) for report in ran.of(Stream, Display)]
    assert kinds == [Stream, Display] * 20
    assert "".join(report.text for report in ran.of(Stream)) == "".join(f"{n}\n" for n in range(20))


def test_a_table_is_shown_as_html_and_comes_back(run: Run) -> None:
    ran = run("import pandas\npandas.DataFrame({'a': [1, 2]})")
    assert "<table" in ran.displays[0].data["text/html"]
    assert list(ran.value()["a"]) == [1, 2]


def test_figures_are_shown_when_asked_for_and_at_the_end(run: Run) -> None:
    code = (
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\n"
        "print('between')\nplt.subplots()\nplt.subplots()\nNone"
    )
    shown = run(code).of(Stream, Display)
    assert [type(report) for report in shown] == [Display, Stream, Display, Display]
    assert all(report.data["image/png"].startswith("iVBOR") for report in shown if isinstance(report, Display))


def test_figures_of_a_cell_that_fails_are_shown(run: Run) -> None:
    ran = run("import matplotlib.pyplot as plt\nplt.subplots()\n1 / 0")
    assert "image/png" in ran.displays[0].data
    assert isinstance(ran.terminal, Raised)


def test_a_backend_that_the_cell_chooses_is_left_alone(run: Run) -> None:
    ran = run("import matplotlib\nmatplotlib.use('agg')\nimport matplotlib.pyplot as plt\nplt.figure();")
    assert ran.displays == []


def test_the_formats_of_figures_can_be_configured(run: Run) -> None:
    code = "get_ipython().run_line_magic('config', \"InlineBackend.figure_format = 'svg'\")\n"
    ran = run(code + "import matplotlib.pyplot as plt\nplt.plot([1]);")
    assert "image/svg+xml" in ran.displays[0].data


def test_a_display_with_what_json_cannot_say_arrives(run: Run) -> None:
    ran = run("display({'application/json': {'a': float('nan'), 1: b'x'}, 'text/plain': '\\udc80'}, raw=True)")
    assert ran.displays[0].data == {"application/json": {"a": None, "1": "eA=="}, "text/plain": "\ufffd"}
    json.dumps(ran.displays[0].data, allow_nan=False)


def test_a_display_that_is_too_large_is_left_out_and_said_so(run: Run) -> None:
    ran = run("display({'text/html': 'x' * 9_000_000, 'text/plain': 'short'}, raw=True)")
    assert [display.data for display in ran.displays] == [{"text/plain": "short"}]
    assert any("text/html" in getattr(report, "content", "") for report in ran.reports)


def test_a_widget_is_shown_as_text_and_said_to_need_the_kernel(run: Run) -> None:
    ran = run("from ipywidgets import IntSlider\ndisplay(IntSlider())\nIntSlider()")
    assert [set(display.data) for display in ran.displays] == [{"text/plain"}] * 2
    assert "--runner threaded" in ran.of(Notification)[0].content


def test_a_repr_that_fails_does_not_fail_the_cell(run: Run) -> None:
    ran = run("class Bad:\n    def __repr__(self): raise ValueError('no repr')\nBad()")
    assert "no repr" in ran.text("stderr")
    assert isinstance(ran.terminal, Returned)


def test_input_says_what_to_do_instead(run: Run) -> None:
    ran = run("input('name? ')")
    assert ran.raised.evalue.startswith("input() does not work in a job")
    assert "--in" in ran.raised.evalue
    assert "input() does not work" in run("import getpass\ngetpass.getpass()").raised.evalue


@pytest.mark.parametrize(
    "code",
    [
        "breakpoint()",
        "import pdb; pdb.set_trace()\nx = 1",
        "import pdb; pdb.run('x = 1')",
        "get_ipython().run_line_magic('debug', '1 + 1')",
        "get_ipython().run_line_magic('debug', '')",
    ],
)
def test_a_debugger_is_refused_in_one_sentence(run: Run, code: str) -> None:
    raised = run(code).raised
    assert raised.evalue.startswith("There is no debugger in a job")
    assert "input()" not in "".join(raised.traceback)


def test_a_debugger_with_input_of_its_own_works(run: Run) -> None:
    code = (
        "import io, pdb\nsaid = io.StringIO()\npdb.Pdb(stdin=io.StringIO('p 6 * 7\\nc\\n'), stdout=said).set_trace()\n"
    )
    assert "42" in run(code + "x = 1\nsaid.getvalue()").value()


def test_a_plain_scalar_is_shown_without_importing_ipython(run: Run) -> None:
    ran = run(
        "import sys\n"
        "print([name for name in ('IPython', 'asyncio', 'numpy', 'matplotlib') if name in sys.modules])\n"
        "3.5"
    )
    assert ran.stdout == "[]\n"


def test_libraries_that_ask_for_the_shell_find_one(run: Run) -> None:
    code = "from IPython import get_ipython as find\nfrom IPython.core.interactiveshell import InteractiveShell\n"
    assert run(code + "[find() is get_ipython(), InteractiveShell.initialized()]").value() == [True, True]


def test_an_input_that_cannot_be_unpacked_is_named(start: Callable[..., Child]) -> None:
    child = start()
    child.send({"type": "value", "name": "model", "format": "pickle", "sizes": [3], "meta": {}}, [b"abc"])
    child.run("1")
    ran = Ran(child.rest(), child)
    assert "'model'" in ran.raised.evalue


def test_an_interpreter_started_by_the_cell_is_an_ordinary_one(run: Run) -> None:
    code = """
import multiprocessing
with multiprocessing.get_context("spawn").Pool(1) as pool:
    flags = pool.apply(eval, ("str(__import__('sys').flags)",))
flags
"""
    assert "no_site=0" in run(code).value()
    assert "isolated=0" in run(code).value()
