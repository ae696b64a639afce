"""From a plan to a running job with its place in the notebook."""

from __future__ import annotations

import builtins
import contextlib
import inspect
import math
import os
import platform
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
from msgspec import Struct

from ..config import Settings
from ..containers import ContainerOptions
from ..errors import InvalidRequest, JobNotFound
from ..events import Isolation
from ..jobs import CodeWork, Job, JobRequest, Profile, ResourceLimits, checked
from ..runners.base import Parcel, Runner
from . import container_options as containers
from . import requests
from .options import AUTO, Options, is_name
from .origins import origins_named

if TYPE_CHECKING:
    from .session import Session

_RUN_OPTIONS = {
    "profile",
    "python",
    "fresh",
    "env",
    "secrets",
    "name",
    "labels",
    "grace_seconds",
    "cwd",
    "max_transfer_bytes",
    "max_output_bytes",
}
_FUNCTION = "_function"
_UNKNOWN = "another version"


class Plan(Struct, frozen=True):
    """What would be submitted. `inputs`: the names that travel or are shared, `imports`: the line for modules.

    left_out: variables that the code may only mention, and that can't travel to its Python.
    """

    request: JobRequest
    parcel: Parcel
    inputs: tuple[str, ...] = ()
    imports: str = ""
    left_out: tuple[str, ...] = ()


def plan_cell(session: Session, options: Options, cell: str) -> Plan:
    """Everything that is decided, checked and encoded before a cell's job exists. Raises a `Refused`."""
    from ..manager import as_it_runs

    shell = session.shell
    runner = session.manager.runner(options.runner)
    filename = f"Cell In[{_cell_number(shell)}]"
    request = requests.cell_request(options, cell, code="", filename=filename, shares_namespace=runner.shares_namespace)
    code = _transformed(shell, cell)
    other = _foreseen_other(runner, request) if options.dry_run else runner.speaks_other(request)
    parsed = requests.check_syntax(f"\n{code}", filename, lambda: _python_there(runner, request, other))
    names = requests.choose_inputs(options.inputs, code, shell.user_ns, shell.user_ns_hidden, parsed=parsed)
    imports, others = "", names
    if not runner.shares_namespace and not requests.begins_with_future(code):
        imports, others = requests.import_line(names, shell.user_ns)
    left_out: list[str] = []
    if not parsed:
        other = other or _UNKNOWN
        if options.inputs == AUTO:
            left_out = [name for name in others if not requests.travels(name, shell.user_ns[name], request, other)]
            others = [name for name in others if name not in left_out]
    # the cell's first line is the magic's own, so that lines count as the page numbers them
    work = CodeWork(cell, f"{imports}\n{code}", filename)
    request = msgspec.structs.replace(request, work=work, inputs=tuple(others))
    runs = as_it_runs(request)
    with origins_named(request, session.settings()):
        runner.check(runs)
    parcel = requests.make_parcel(request, runner, others, shell.user_ns, shared=shell.user_ns, other_python=other)
    return Plan(runs, parcel, tuple(others), imports, tuple(left_out))


def _foreseen_other(runner: Runner, request: JobRequest) -> str:
    """As `Runner.speaks_other`, of what is known already: a container may have to be started to learn more."""
    if runner.name != "docker":
        return runner.speaks_other(request)
    version = _python_there(runner, request, "")
    return version if version.split(".")[:2] != platform.python_version().split(".")[:2] else ""


def _python_there(runner: Runner, request: JobRequest, other: str) -> str:
    """The version of the job's Python; "" where nobody knows it before the start, as of an image that is not there."""
    return other or str(runner.foresee(request).details.get("python", platform.python_version()))


def _cell_number(shell: Any) -> int:
    """The number of the cell that runs now; IPython's own counter is one ahead while it does, from 9.18 on."""
    return len(shell.history_manager.input_hist_parsed) - 1 or int(shell.execution_count)


def _transformed(shell: Any, cell: str) -> str:
    """The cell as Python: magics and `!commands` become calls."""
    try:
        return str(shell.transform_cell(cell))
    except SyntaxError as error:
        raise InvalidRequest(f"The cell is not valid Python: {error.msg}. Nothing was started.") from None


def submit(session: Session, plan: Plan) -> Job:
    """Start it. An interrupt on the way leaves nothing running."""
    job_id = uuid4().hex
    try:
        job = session.manager.submit(plan.request, plan.parcel, job_id=job_id)
    except KeyboardInterrupt:
        with contextlib.suppress(JobNotFound):
            session.manager.cancel(job_id)
        raise
    session.started(job_id)
    return job


@requests.nothing_started()
def launch_work(
    session: Session,
    work: str | Callable[..., Any],
    *,
    runner: str | None,
    inputs: dict[str, Any],
    outputs: Iterable[str],
    limits: ResourceLimits | None,
    options: dict[str, Any],
) -> tuple[Job, dict[str, Any]]:
    """What `run` does: the job, and the values that it was given."""
    settings = session.settings()
    source, code, values, name = _work(session, work, inputs)
    chosen = session.manager.runner(runner or settings["runner"])
    request = checked(
        JobRequest(
            work=CodeWork(source, code),
            runner=chosen.name,
            limits=_limits(limits or ResourceLimits(), settings, chosen.name),
            inputs=tuple(values),
            outputs=_outputs(outputs),
            **_checked({"name": name, **options}, settings, chosen),
        )
    )
    other = chosen.speaks_other(request)
    code, filename = request.work.runnable, request.work.filename
    if not requests.check_syntax(code, filename, lambda: _python_there(chosen, request, other)):
        other = other or _UNKNOWN
    with origins_named(request, settings):
        chosen.check(request)
    shared = _namespace(values)
    parcel = requests.make_parcel(request, chosen, list(values), values, shared=shared, other_python=other)
    return submit(session, Plan(request, parcel)), values


def _outputs(names: Iterable[str]) -> tuple[str, ...]:
    for name in (found := several(names)):
        if not isinstance(name, str) or not is_name(name):
            raise InvalidRequest(f"Output {name!r} is not a variable's name. Nothing was started.")
    return found


def _limits(asked: ResourceLimits, settings: Settings, runner: str) -> ResourceLimits:
    """What was asked for, then what is set."""
    if not isinstance(asked, ResourceLimits):
        raise InvalidRequest(f"limits takes Limits(memory='2g', …), not {type(asked).__name__}. Nothing was started.")
    if asked.wall_seconds is None:
        asked = msgspec.structs.replace(asked, wall_seconds=settings["timeout"])
    return containers.docker_limits(asked, settings) if runner == "docker" else asked


def _work(
    session: Session, work: str | Callable[..., Any], inputs: dict[str, Any]
) -> tuple[str, str, dict[str, Any], str]:
    """Source, code after IPython's transform, the values that it finds, its name."""
    for name in inputs:
        if not isinstance(name, str) or not is_name(name) or name == _FUNCTION:
            raise InvalidRequest(
                f"Input {name!r} is not a name that code can use. Take letters, digits and '_', and no keyword."
            )
    if isinstance(work, str):
        code = _transformed(session.shell, work) if session.shell is not None else ""
        return work, code if code != work else "", inputs, ""
    if not callable(work):
        raise InvalidRequest(f"run() takes code as text or a function, not {type(work).__name__}.")
    wait = "await " if inspect.iscoroutinefunction(work) else ""
    call = f"{wait}{_FUNCTION}({', '.join(f'{name}={name}' for name in inputs)})"
    return call, "", {_FUNCTION: work, **inputs}, getattr(work, "__name__", "").strip("<>")


def _namespace(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"__name__": "__main__", "__builtins__": builtins, **values}


def _checked(options: dict[str, Any], settings: Settings, runner: Runner) -> dict[str, Any]:
    """The fields of a request that `run`'s options name, as on the line of a cell. Raises `InvalidRequest`."""
    unknown = sorted(set(options) - _RUN_OPTIONS - containers.KEYWORDS)
    if unknown:
        known = ", ".join(sorted(_RUN_OPTIONS | containers.KEYWORDS))
        raise InvalidRequest(f"run() has no option {unknown[0]!r}. It takes {known}.")
    cwd = "" if runner.shares_namespace else requests.working_directory()
    python = settings["python"] if runner.name == "subprocess" else ""
    plain = {name: value for name, value in options.items() if name in _RUN_OPTIONS}
    merged = {"python": python, "grace_seconds": settings["grace"], "cwd": cwd, **plain}
    for name in ("python", "cwd"):
        merged[name] = os.fspath(merged[name]) if isinstance(merged[name], os.PathLike) else merged[name]
    merged["profile"] = merged.get("profile") or settings["profile"]
    merged["secrets"] = several(merged.get("secrets", ()))
    _check_amounts(merged)
    try:
        merged["profile"] = Profile(merged["profile"])
    except ValueError:
        raise InvalidRequest(f"profile {merged['profile']!r} is not one of {', '.join(Profile)}.") from None
    given = {name: value for name, value in options.items() if name in containers.KEYWORDS and value is not None}
    merged["container"] = _container(containers.from_python(given), settings, merged["profile"], runner.name)
    return merged


def several(given: str | Iterable[str]) -> tuple[str, ...]:
    """Names as a person may give them: each one of a sequence, or one text, as on the line."""
    return tuple(given.replace(",", " ").split() if isinstance(given, str) else given)


def _check_amounts(merged: Mapping[str, Any]) -> None:
    for name in ("grace_seconds", "max_transfer_bytes", "max_output_bytes"):
        value = merged.get(name, 1)
        if isinstance(value, int | float) and not 0 < value < math.inf:
            raise InvalidRequest(f"{name}={value!r} is not above zero. Nothing was started.")


def _container(given: Namespace, settings: Settings, profile: Profile, runner: str) -> ContainerOptions:
    if runner != "docker":
        return containers.elsewhere(given, runner)
    return containers.container_options(containers.container_changes(given), settings, profile)


@requests.nothing_started()
def relaunch(
    session: Session, job: Job, changes: dict[str, Any], *, given: Namespace, inputs: Mapping[str, Any] | None
) -> Job:
    """The same work once more, with what was given to `run`, else with the notebook's variables as they are now.

    changes: fields of the request. given: the options of containers that were named. A container has the image that
    the job had, unless another is named. Raises a `Refused`.
    """
    elsewhere = {"python": ""} if changes.get("runner", job.request.runner) != job.request.runner else {}
    request = msgspec.structs.replace(job.request, rerun_of=job.id, **{**elsewhere, **changes})
    request = _rehoused(session, job, request, given)
    runner = session.manager.runner(request.runner)
    namespace = session.shell.user_ns if session.shell is not None else {}
    values = dict(inputs) if inputs is not None else namespace
    lost = [name for name in request.inputs if name not in values]
    if lost:
        raise InvalidRequest(f"Job {job.id} needs the variable {lost[0]!r}, which the kernel does not have. Assign it.")
    if runner.shares_namespace:
        request = msgspec.structs.replace(request, cwd="")
    with origins_named(request, session.settings()):
        runner.check(request)
    shared = values if inputs is None else _namespace(values)
    other = runner.speaks_other(request) if request.inputs else ""
    parcel = requests.make_parcel(request, runner, list(request.inputs), values, shared=shared, other_python=other)
    return submit(session, Plan(request, parcel))


def limits_in(session: Session, request: JobRequest, runner: str) -> ResourceLimits:
    """A request's limits, to be changed for a rerun there: what is only set for containers comes and goes with them."""
    if (runner == "docker") == (request.runner == "docker"):
        return request.limits
    move = containers.docker_limits if runner == "docker" else containers.without_docker_limits
    return move(request.limits, session.settings())


def _rehoused(session: Session, job: Job, request: JobRequest, given: Namespace) -> JobRequest:
    """The request as its runner takes it: a container's options come and go with the container."""
    was = job.request
    if request.runner != "docker":
        same = request.runner == was.runner and not containers.given_options(given)
        container = was.container if same else containers.elsewhere(given, request.runner)
        return msgspec.structs.replace(request, container=container)
    changed = containers.container_changes(given)
    if was.runner != "docker":
        container = containers.container_options(changed, session.settings(), request.profile)
        return msgspec.structs.replace(request, container=container, python="" if was.python else request.python)
    pinned = "" if "image" in changed else _image_of(session, job)
    if request.profile is not was.profile:  # when an image is fetched is the profile's to say, unless somebody does
        changed = {"pull": containers.container_options({}, session.settings(), request.profile).pull, **changed}
    return msgspec.structs.replace(
        request, container=msgspec.structs.replace(request.container, **{"pinned": pinned, **changed})
    )


def _image_of(session: Session, job: Job) -> str:
    """The id of the image that the job ran with; "" when it never came so far."""
    found = [event for event in session.manager.events(job.id) if isinstance(event, Isolation)]
    return str(found[-1].details.get("image_id", "")) if found else job.request.container.pinned
