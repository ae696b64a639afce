"""Threaded jobs inside a real ipykernel: what a job shows is the job's, what cells show is theirs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.conftest import Kernel

SETUP = """
import contextvars, itertools, threading
from nodetool_jupyter.config import Settings
from nodetool_jupyter.events import ClearOutput, Display, Stream
from nodetool_jupyter.jobs import CodeWork, JobRequest
from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.runners.base import Parcel
manager = JobExecutionManager(Settings({"ENV": "test"}))
manager.start()
gate, begun = threading.Event(), threading.Event()

def start(code):
    begun.clear(), gate.clear()
    parcel = Parcel(namespace=get_ipython().user_ns, context=contextvars.copy_context())
    return manager.submit(JobRequest(work=CodeWork(get_ipython().transform_cell(code))), parcel).id

def shown(job_id):
    gate.set()
    final = manager.wait(job_id, 60)
    for name, events in itertools.groupby(manager.events(job_id), lambda event: getattr(event, "name", "")):
        if name:  # text of one stream: `print` writes the end of its line apart, and it may come so
            print(name, repr("".join(event.text for event in events)))
        for event in events:
            if isinstance(event, Display):
                print("display", sorted(event.data), event.display_id, event.update, event.result)
            elif isinstance(event, ClearOutput):
                print("clear", event.wait)
    print(f"{final.status.value} {final.message}".strip())
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder: Path = tmp_path_factory.mktemp("kernel")
    environ = {**os.environ, "JUPYTER_DATA_DIR": str(folder / "data")}
    started = Kernel(environ, folder)
    started.value(SETUP)
    yield started
    started.close()


def run(kernel: Kernel, code: str) -> list[str]:
    return kernel.value(f"shown(start({code!r}))").splitlines()


def test_displays_are_the_jobs_by_the_kernels_own_formatters(kernel: Kernel) -> None:
    code = (
        "display(HTML('<b>x</b>'))\nh = display(1, display_id='here')\nh.update(2)\n"
        "clear_output(wait=True)\npandas.DataFrame({'a': [1]})"
    )
    kernel.value("from IPython.display import HTML, clear_output\nimport pandas")
    assert run(kernel, code) == [
        "display ['text/html', 'text/plain']  False False",
        "display ['text/plain'] here False False",
        "display ['text/plain'] here True False",
        "clear True",
        "display ['text/html', 'text/plain']  False True",
        "completed",
    ]


def test_figures_are_the_jobs_and_shown_at_its_end(kernel: Kernel) -> None:
    code = "import matplotlib.pyplot as plt\nplt.plot([1]);\nplt.show()\nprint('between')\nplt.plot([2]);"
    assert run(kernel, code) == [
        "display ['image/png', 'text/plain']  False False",
        "stdout 'between\\n'",
        "display ['image/png', 'text/plain']  False False",
        "completed",
    ]


def test_a_figure_of_a_running_job_does_not_appear_in_a_cell(kernel: Kernel) -> None:
    kernel.value(
        "job = start('import matplotlib.pyplot as plt\\nplt.plot([1])\\nbegun.set()\\ngate.wait();')\nbegun.wait();"
    )
    ran = kernel.run("import matplotlib.pyplot as plt\nplt.plot([3]);")
    assert ["image/png" in bundle for bundle in ran.bundles] == [True]
    assert kernel.value("shown(job)").splitlines() == ["display ['image/png', 'text/plain']  False False", "completed"]


def test_commands_and_magics_write_to_the_job(kernel: Kernel) -> None:
    lines = run(kernel, "!echo hello\n%precision 3\n1 / 3")
    assert any("hello" in line for line in lines if line.startswith("stdout"))
    assert lines[-2:] == ["display ['text/plain']  False True", "completed"]
    kernel.value("%precision")


def test_a_cell_beside_a_job_shows_its_own_output_only(kernel: Kernel) -> None:
    kernel.value("job = start('begun.set()\\ngate.wait()\\nprint(1)\\ndisplay(2)')\nbegun.wait();")
    ran = kernel.run("print('cell')\ndisplay('shown')\n'result'")
    assert ran.text.split() == ["cell", "'shown'", "'result'"]
    assert kernel.value("shown(job)").splitlines() == [
        "stdout '1\\n'",
        "display ['text/plain']  False False",
        "completed",
    ]


def test_a_cell_that_captures_does_not_catch_what_a_job_shows(kernel: Kernel) -> None:
    kernel.value("job = start('begun.set()\\ngate.wait()\\nprint(1)\\ndisplay(2)')\nbegun.wait();")
    kernel.value("%%capture caught\nprint('cell')\ndisplay(3)\ngate.set()\n_ = manager.wait(job, 60)")
    assert kernel.value("print(repr(caught.stdout), len(caught.outputs))") == "'cell\\n' 1"
    assert kernel.value("shown(job)").splitlines()[:2] == ["stdout '1\\n'", "display ['text/plain']  False False"]


def test_input_is_refused_while_a_cell_runs_and_between_cells(kernel: Kernel) -> None:
    for code in ("input()", "begun.set()\ngate.wait()\ninput()", "import getpass\ngetpass.getpass()"):
        kernel.value(f"job = start({code!r})")
        kernel.value("gate.set()")
        assert "input() does not work in a job" in kernel.value("shown(job)")


def test_an_exit_ends_the_job_and_not_the_kernel(kernel: Kernel) -> None:
    for code, end in {
        "exit()": "completed",
        "quit()": "completed",
        "exit(True)": "completed",
        "exit(3)": "failed SystemExit: 3",
    }.items():
        assert run(kernel, f"print('before')\n{code}\nprint('after')") == ["stdout 'before\\n'", end]
    assert kernel.value("get_ipython().exit_now") == "False"
    kernel.value("job = start('begun.set()\\ngate.wait()')\nbegun.wait();")
    assert kernel.value("print(get_ipython().ask_exit.__name__, exit is get_ipython().exiter)") == "ask_exit True"
    assert kernel.value("shown(job)").splitlines()[-1] == "completed"


def test_a_debugger_is_refused_in_a_job(kernel: Kernel) -> None:
    for code in ("import pdb; pdb.set_trace()", "%debug 1 + 1", "%debug"):
        assert "There is no debugger in a job" in run(kernel, code)[-1]


def test_all_is_as_before_when_no_job_runs(kernel: Kernel) -> None:
    look = (
        "import sys; print(type(sys).__name__, type(sys.stdout).__name__, 'publish' in vars(get_ipython().display_pub))"
    )
    run(kernel, "1")
    assert kernel.value(look) == "module OutStream False"


def test_tqdm_for_notebooks_needs_no_widget_in_a_job(kernel: Kernel) -> None:
    assert run(kernel, "from tqdm.notebook import tqdm\nfor _ in tqdm(range(2)): pass") == ["completed"]


def test_what_a_late_thread_prints_is_shown_where_its_job_was_started(kernel: Kernel) -> None:
    code = "late = threading.Thread(target=lambda: (gate.wait(), print('late')))\nlate.start()"
    started = kernel.start(
        f"job = start({code!r})\nmanager.wait(job, 60); import time; time.sleep(0.1); gate.set(); late.join()"
    )
    assert kernel.follow(started).text == "late\n"
