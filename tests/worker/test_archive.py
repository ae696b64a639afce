"""A container's worker in memory, and what it does ahead while it waits."""

from __future__ import annotations

import marshal
import subprocess
import sys

import pytest

from nodetool_jupyter.runners.docker.bundle import bundle

INSTALL = """\
import marshal, os, sys
archive, _, *modules = marshal.loads(sys.stdin.buffer.read()[4:])
exec(compile(archive, "/nodetool_jupyter/worker/archive.py", "exec", 0, True))
install(*modules)
os.closerange(3, 256)
"""


def inside(code: str, data: bytes) -> str:
    """What code prints in an interpreter that has the archive and nothing else of ours."""
    command = [sys.executable, "-I", "-S", "-c", INSTALL + code]
    done = subprocess.run(command, input=data, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def of_another_python() -> bytes:
    archive, code, _, compiled, sources = marshal.loads(bundle().data[4:])
    return bytes(4) + marshal.dumps((archive, code, b"none", compiled, sources), 2)


@pytest.mark.parametrize("data", [bundle().data, of_another_python()], ids=["byte code", "source"])
def test_everything_of_a_worker_is_imported_from_memory(data: bytes) -> None:
    code = (
        "from nodetool_jupyter.worker import container, process, tracebacks, pickled, warm_up\n"
        "import cloudpickle\nfrom nodetool_jupyter import progress\n"
        "print(process.__file__, process.run_job.__code__.co_filename, cloudpickle.__file__)"
    )
    file = "/nodetool_jupyter/worker/process.py"
    assert inside(code, data).split() == [file, file, "/cloudpickle/__init__.py"]


def test_a_host_only_module_is_not_there() -> None:
    code = "import importlib.util as u\nprint(u.find_spec('nodetool_jupyter.worker.supervisor'))"
    assert inside(code, bundle().data) == "None\n"


def test_what_site_packages_print_ahead_is_kept_for_the_job() -> None:
    code = (
        "import sys, types\nsite = types.ModuleType('site')\n"
        "def say():\n    print('out'); print('err', file=sys.stderr); print('still out')\n    site.held = sys.stdout\n"
        "site.main = say\nsys.modules['site'] = site\n"
        "from nodetool_jupyter.worker import streams, warm_up\nwarm_up._run_site()\n"
        "class Outlet:\n    got = []\n    def write(self, name, text): self.got.append((name, text))\n"
        "    def flush(self): pass\n"
        "streams.claim(Outlet())\nprint('later', file=site.held, end='')\nassert sys.stdout is site.held\n"
        "sys.__stdout__.write(repr([(n, t) for n, t in Outlet.got if t.strip()]))"
    )
    expected = [("stdout", "out"), ("stderr", "err"), ("stdout", "still out"), ("stdout", "later")]
    assert inside(code, bundle().data) == repr(expected)


def test_what_is_done_ahead_ends_when_the_work_comes() -> None:
    code = (
        "import os\nfrom nodetool_jupyter.worker import warm_up\nread, write = os.pipe()\nsteps = []\n"
        "def first():\n    steps.append(1); os.write(write, b'x')\n"
        "warm_up._run_site = lambda: None\nwarm_up._STEPS = (first, lambda: steps.append(2))\n"
        "warm_up.use_the_wait(read)\nprint(steps)"
    )
    assert inside(code, bundle().data) == "[1]\n"
