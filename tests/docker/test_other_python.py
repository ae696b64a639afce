"""An image whose Python is of another minor version than the kernel's: code goes as source, values as plain data."""

from __future__ import annotations

import math
import platform
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy
import pytest
from IPython.core.interactiveshell import InteractiveShell

from nodetool_jupyter.containers import ContainerOptions
from nodetool_jupyter.errors import ValueCannotTravel
from nodetool_jupyter.events import Display, JobUpdate
from nodetool_jupyter.frames import Value
from nodetool_jupyter.jobs import CodeWork, JobRequest, JobStatus, Profile, Reason
from nodetool_jupyter.notebook.requests import encode_inputs
from nodetool_jupyter.worker.pickled import encode_input
from tests.docker.jobs import Jobs, isolation
from tests.engine import images
from tests.engine.private import Engine
from tests.notebook.conftest import refused, shell  # noqa: F401  # pytest finds fixtures by name
from tests.workflows.seeing import of, text

pytestmark = pytest.mark.timeout(900)  # the first time, its image is made

MINE = platform.python_version()
VERSION = images.PYTHON if sys.version_info[:2] == (3, 13) else images.OTHER_PYTHON


@pytest.fixture(scope="module", autouse=True)
def other(run_engine: Engine) -> Iterator[ContainerOptions]:
    """A container of the other image, which is there for these tests only."""
    name = images.IMAGE if images.PYTHON == VERSION else images.OTHER
    with run_engine.client() as client:
        if name == images.OTHER:
            images.load_other(client)
        yield ContainerOptions(image=name)
        if name == images.OTHER:
            client.images.remove(name)


def request(other: ContainerOptions, **fields: object) -> JobRequest:
    return JobRequest(work=CodeWork("1"), runner="docker", container=other, **fields)  # type: ignore[arg-type]


def sent(jobs: Jobs, other: ContainerOptions, **values: object) -> list[Value]:
    """As the notebook sends them."""
    asked = request(other)
    version = jobs.manager.runner("docker").speaks_other(asked)
    found, _ = encode_inputs(list(values), values, asked, version)
    return found


def test_a_cell_runs_there_as_source_with_everything_around_it(jobs: Jobs, other: ContainerOptions) -> None:
    code = (
        "import sys, asyncio, logging\nfrom nodetool_jupyter import progress, save\nprogress(1, 2)\n"
        "await asyncio.sleep(0)\nlogging.warning('w')\nopen('f', 'w').close()\nsave('f')\n"
        "print('%d.%d' % sys.version_info[:2])\nclass A:\n    pass\nA.__name__"
    )
    job, events = jobs.run(code, container=other)
    assert job.status is JobStatus.COMPLETED, job.message
    assert text(events) == f"{VERSION}\n"
    assert of(events, Display)[0].data["text/plain"] == "'A'"
    assert isolation(events).details["python"].startswith(f"{VERSION}.")


def test_an_error_there_has_the_cells_own_lines_and_none_of_ours(jobs: Jobs, other: ContainerOptions) -> None:
    job, events = jobs.run("def f():\n    return {}['a']  # here\nf()", container=other)
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.ERROR)
    traceback = of(events, JobUpdate)[-1].traceback or ""
    assert "return {}['a']  # here" in traceback
    assert "nodetool_jupyter" not in traceback


def test_plain_values_go_there_and_come_back(jobs: Jobs, other: ContainerOptions) -> None:
    day, odd = date(2024, 1, 1), {(1, 2): {2**70, 1j}, None: (datetime(2024, 1, 1, tzinfo=UTC), Decimal("1.50"))}
    values = sent(jobs, other, x={"a": [1, None, 2.5, "é"]}, raw=b"\x00\xff", day=day, odd=odd)
    code = "y = [x, len(raw)]\nraw = raw * 2\nodd[day, float('inf')] = frozenset({-float('inf')})"
    job, _ = jobs.run(code, values=values, outputs=("y", "raw", "odd"), container=other)
    assert job.status is JobStatus.COMPLETED, job.message
    assert jobs.value(job, "y") == [{"a": [1, None, 2.5, "é"]}, 2]
    assert jobs.value(job, "raw") == b"\x00\xff\x00\xff"
    assert jobs.value(job, "odd") == {**odd, (day, math.inf): frozenset({-math.inf})}


@pytest.mark.parametrize("thing", [range(2), lambda: 1, object, numpy.array([None])])
def test_what_only_the_same_python_reads_is_refused_before_the_start_with_both_versions(
    jobs: Jobs, other: ContainerOptions, thing: object
) -> None:
    with pytest.raises(ValueCannotTravel) as caught:
        sent(jobs, other, thing=thing)
    said = str(caught.value)
    assert said.startswith("Variable 'thing' (")
    assert f"between Python {MINE} here and {VERSION}." in said
    jobs.nothing_is_left()


def test_arrays_go_there_as_they_are_and_are_refused_by_the_image_alone(jobs: Jobs, other: ContainerOptions) -> None:
    [array] = sent(jobs, other, array=numpy.arange(4))
    assert array.format == "numpy"
    job, _ = jobs.run("1", values=[array], container=other)
    assert "no module 'numpy'" in job.message


def test_code_that_was_sent_for_an_image_nobody_knew_yet_does_not_reach_it(jobs: Jobs, other: ContainerOptions) -> None:
    fields, buffers = encode_input("f", lambda: 1, max_bytes=1 << 20)
    value = Value(**{**fields, "sizes": tuple(fields["sizes"])}, body=buffers)
    job, events = jobs.run("print('ran')", values=[value], container=other)
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.START_FAILED)
    assert job.message.startswith("Variable 'f' (function) can't be sent into the job")
    for version in (MINE, f"{VERSION}."):
        assert version in job.message
    assert text(events) == ""
    jobs.nothing_is_left()


@pytest.mark.parametrize("profile", [Profile.TRUSTED, Profile.DEFAULT, Profile.UNTRUSTED])
@pytest.mark.parametrize("code", ["def x(): pass", "x = range(2)"])
def test_what_only_the_same_python_reads_does_not_come_back_in_any_profile(
    jobs: Jobs, other: ContainerOptions, profile: Profile, code: str
) -> None:
    job, _ = jobs.run(code, outputs=("x",), profile=profile, container=other)
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.ERROR)
    assert "Variable 'x' (" in job.message
    assert f"can't come back from the job: between Python {VERSION}." in job.message
    assert f"and {MINE} here only numbers" in job.message


def test_plain_data_comes_back_from_a_trusted_cell_there(jobs: Jobs, other: ContainerOptions) -> None:
    job, _ = jobs.run("x = [1, {'a': b''.hex()}]", outputs=("x",), profile=Profile.TRUSTED, container=other)
    assert job.status is JobStatus.COMPLETED, job.message
    assert jobs.manager.values(job.id)["x"].format == "json"


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="this Python knows the newer grammar")
def test_a_cell_in_its_newer_grammar_runs_there_with_what_it_reads(
    engine: Engine,
    shell: InteractiveShell,  # noqa: F811
    other: ContainerOptions,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shell.user_ns.update(rows=[1, 2], lock=threading.Lock())
    code = "type X = int\ndef f[T](x: T) -> T: return x  # and no lock\nprint(f\"{f(len(rows))} {'\\n'.join(['a'])}\")"
    shell.run_cell(f"%%nodetool -r docker --image {other.image}\n{code}").raise_error()
    assert capsys.readouterr().out.startswith("2 a\n")
    shell.run_cell(f"%%nodetool -r docker --dry-run --image {other.image}\n{code}").raise_error()
    assert "inputs      rows (list" in capsys.readouterr().out
    said = refused(shell, f"%%nodetool -r docker --image {other.image}\nprint(1")
    assert said.startswith("Line 2 of the cell is not valid Python: '(' was never closed. Nothing was started.")
