"""The verbs of `%nodetool`."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from ..config import SETTINGS
from ..errors import InvalidRequest, JobFailed, JobNotFound
from ..jobs import Job, JobStatus
from ..quantities import format_duration, format_size, parse_age, parse_size
from ..view import view_text
from .completion import VERBS
from .handle import JobHandle
from .launch import limits_in
from .options import changes, labels, option_parser, parse, showing
from .requests import asked_environment, nothing_started
from .running import finish, present
from .showing import leaving, show, telling, watch_in_cell

if TYPE_CHECKING:
    from .session import Session

_OPEN = {status for status in JobStatus if not status.final}
_ALL_OF_LOG = 1 << 62
_MOST_LISTED = 50


def run(session: Session, words: list[str]) -> Any:
    """Do what the line says. Raises an `InvalidRequest` that names the verbs, or what the verb raises."""
    if not words:
        raise InvalidRequest(f"%nodetool wants a verb: {', '.join(VERBS)}. `%nodetool?` says what each does.")
    verb, *rest = words
    if verb not in _VERBS:
        raise InvalidRequest(
            f"%nodetool has no verb {verb!r}. It has {', '.join(VERBS)}; `%nodetool?` says what each does."
        )
    return _VERBS[verb](session, rest)


def _one(session: Session, verb: str, words: list[str], *, last: bool = False) -> JobHandle:
    """The job that the line names."""
    if len(words) > 1:
        raise InvalidRequest(f"%nodetool {verb} takes one job, and got {' '.join(words)!r}.")
    if not words and not last:
        raise InvalidRequest(f"%nodetool {verb} wants a job: the beginning of an id, a name, or -1 for the last one.")
    return JobHandle(session, session.manager.resolve(words[0] if words else "-1"))


def _flag(words: list[str], *flags: str) -> tuple[bool, list[str]]:
    return any(word in flags for word in words), [word for word in words if word not in flags]


def _none(verb: str, words: list[str]) -> None:
    if words:
        raise InvalidRequest(f"%nodetool {verb} takes nothing more, and got {' '.join(words)!r}.")


def _jobs(session: Session, words: list[str]) -> None:
    wanted, rest = _labels(words)
    _none("jobs", rest)
    session.manager.end_lost()
    jobs = session.manager.find(labels=wanted, limit=_MOST_LISTED + 1)
    session.tell_warnings()
    if not jobs:
        print("No job has these labels." if wanted else "No jobs yet. Put %%nodetool on top of a cell.")
        return
    rows = [_row(job, stable=session.stable) for job in jobs[:_MOST_LISTED]]
    header = (
        ["name", "runner", "status"]
        if session.stable
        else ["id", "name", "runner", "status", "started", "took", "peak"]
    )
    _print_table([header, *rows])
    if len(jobs) > _MOST_LISTED:
        print(
            f"These are the newest {_MOST_LISTED}. There are older ones: --label NAME=VALUE lists those with a label."
        )


def _print_table(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _labels(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """What `--label k=v` asks for, and the words that are left."""
    given, rest = [], []
    following = iter(words)
    for word in following:
        option, _, text = word.partition("=")
        if option != "--label":
            rest.append(word)
        elif text := text or next(following, ""):
            given.append(text)
        else:
            raise InvalidRequest("--label wants a name and a value. Write --label name=value.")
    return labels(given), rest


def _row(job: Job, *, stable: bool) -> list[str]:
    status = f"{job.status.value} ({job.reason.value})" if job.reason else job.status.value
    if stable:
        return [job.request.name or "cell", job.request.runner, status]
    started = datetime.fromtimestamp(job.started_at).strftime("%d %b %H:%M:%S") if job.started_at else "-"
    seconds = job.duration_seconds
    if seconds is None and job.started_at is not None:
        seconds = max(0.0, time.time() - job.started_at)
    took = format_duration(seconds) if seconds is not None else "-"
    peak = format_size(job.usage.peak_memory_bytes) if job.usage.peak_memory_bytes else "-"
    name = job.request.name or job.request.work.filename.strip("<>") or "-"
    return [job.id[:8], name, job.request.runner, status, started, took, peak]


def _status(session: Session, words: list[str]) -> None:
    print(view_text(_one(session, "status", words).view(), time.time(), stable=session.stable))


def _logs(session: Session, words: list[str]) -> None:
    follow, rest = _flag(words, "-f", "--follow")
    handle = _one(session, "logs", rest)
    if not follow:
        print(handle.logs() or f"The job wrote nothing{'' if handle.done() else ' so far'}.\n", end="")
        return
    left = ExitStack()
    with leaving(handle, then=left.close), telling(session):
        canvas = show(session, handle, progress="none", max_bytes=_ALL_OF_LOG)
        left.callback(canvas.abandon)
        canvas.done.wait()


def _attach(session: Session, words: list[str]) -> None:
    handle = _one(session, "attach", words)
    raises = session.raises(handle.id)
    if watch_in_cell(session, handle, progress=session.settings()["progress"], raises=raises) != "detached":
        finish(session, handle, raises=raises)


def _wait(session: Session, words: list[str]) -> None:
    if not words:
        _wait_for_all(session)
        return
    handle = _one(session, "wait", words)
    with leaving(handle), telling(session):
        handle.wait()
    session.bind_ended()
    if not (raises := session.raises(handle.id)):
        print(handle.line)
    finish(session, handle, raises=raises)


def _wait_for_all(session: Session) -> None:
    """Wait for every job of this kernel, say how each ended that nobody was told of, and raise the first failure.

    That of a job with --no-raise is only said.
    """
    manager = session.manager
    going_on = [job.id for job in reversed(manager.find(owner=manager.owner.id, statuses=_OPEN, limit=10_000))]
    ids = dict.fromkeys([*session.untold, *going_on])
    handles = []
    with leaving(), telling(session):
        for job_id in ids:
            try:
                handles.append(JobHandle(session, manager.wait(job_id)))
            except JobNotFound:  # pruned meanwhile
                session.told(job_id)
    session.bind_ended()
    for handle in handles:
        print(handle.line)
    errors = [(handle.exception(), handle.id in going_on) for handle in handles if session.raises(handle.id)]
    for error, was_going_on in errors:
        if isinstance(error, JobFailed) or (error is not None and was_going_on):
            raise error


def _result(session: Session, words: list[str]) -> Any:
    return _one(session, "result", words, last=True).result()


def _cancel(session: Session, words: list[str]) -> None:
    everything, rest = _flag(words, "--all", "-a")
    if everything:
        _none("cancel --all", rest)
        jobs = session.manager.find(owner=session.manager.owner.id, statuses=_OPEN, limit=10_000)
        stopped = sum(session.manager.cancel(job.id) for job in jobs)
        print(f"{stopped} {'job is' if stopped == 1 else 'jobs are'} being cancelled.")
        return
    handle = _one(session, "cancel", rest)
    said = "is being cancelled" if handle.cancel() else f"had ended already: {handle.status.value}"
    print(f"Job {handle.job.label if not session.stable else handle.job.request.name or 'cell'} {said}.")


def _rerun(session: Session, words: list[str]) -> None:
    if not words:
        raise InvalidRequest("%nodetool rerun wants a job: the beginning of an id, a name, or -1 for the last one.")
    handle = _one(session, "rerun", words[:1])
    request = handle.job.request
    with nothing_started():
        given = parse(option_parser("rerun"), words[1:], usage="%%nodetool")
        given.runner = given.runner or request.runner
        shown = showing(given, session.settings())
        changed = changes(given, replace(request, limits=limits_in(session, request, given.runner)))
        if given.env or given.env_file:
            changed["env"] = {**request.env, **asked_environment(given.env or (), given.env_file or ())}
    anew = handle.rerun_with(changed, given)
    present(session, anew, progress=shown.progress, background=shown.background, raises=shown.raises, name=shown.job)


def _choose(session: Session, name: str, text: str) -> None:
    """Set something; a text that can't be read is told as on a cell's line, where it keeps a job from starting."""
    try:
        session.choose(name, text)
    except InvalidRequest as error:
        raise InvalidRequest(str(error).removesuffix(" Nothing was started.")) from None


def _config(session: Session, words: list[str]) -> None:
    from .doctor import without_password

    if len(words) == 2:
        _choose(session, words[0].replace("-", "_"), words[1])
        words = words[:1]
    if len(words) > 2:
        raise InvalidRequest("%nodetool config takes a name and a value. Put a value with spaces into quotes.")
    settings = session.settings()
    names = [setting.name for setting in SETTINGS] if not words else [words[0].replace("-", "_")]
    known = {setting.name: setting for setting in SETTINGS}
    rows = []
    for name in names:
        if name not in known:
            raise InvalidRequest(f"There is no setting {name!r}. `%nodetool config` lists them.")
        value = settings.or_default(name)
        text = format_size(value) if value and known[name].parse is parse_size else str(value)
        shown = "-" if value is None or value == "" else without_password(text)
        unread = name in settings.unread
        rows.append([name, "can't be read" if unread else shown, settings.origin(name), known[name].help])
    _print_table(rows)
    for name in names:
        if why := settings.unread.get(name):
            print(f"! {why} Jobs in containers are refused where it counts; others don't use it.")


def _prune(session: Session, words: list[str]) -> None:
    from ..config import data_dir
    from ..housekeeping import prune
    from ..runners.base import Sweeper

    older = "7d"
    if words and words[0].startswith("--older-than"):
        _, *rest = words[0].split("=", 1) + words[1:]
        if not rest:
            raise InvalidRequest("--older-than wants a time, such as 7d.")
        older, words = rest[0], rest[1:]
    _none("prune", words)
    manager = session.manager
    assets = data_dir() / "nodetool" / "assets" if manager.settings.database_url else None
    gone = prune(
        manager.store,
        parse_age(older, "--older-than"),
        user=manager.owner.user,
        assets=assets,
        sweepers=[runner for runner in manager.runners.values() if isinstance(runner, Sweeper)],
    )
    print(f"{len(gone.jobs)} {'job' if len(gone.jobs) == 1 else 'jobs'} that ended more than {older} ago removed.")
    for what in (*gone.folders, *gone.shared_memory, *gone.cgroups, *gone.runners):
        print(f"removed {what}")
    for sentence in gone.left:
        print(f"left    {sentence}")


def _doctor(session: Session, words: list[str]) -> None:
    from .doctor import image_report, report

    if words and words[0].partition("=")[0] == "--image":
        _, *rest = words[0].split("=", 1) + words[1:]
        if not rest or not rest[0]:
            raise InvalidRequest("doctor --image wants an image, as in --image python:3.12-slim.")
        _none("doctor --image", rest[1:])
        print(image_report(session, rest[0]))
        return
    _none("doctor", words)
    print(report(session))


_VERBS: dict[str, Callable[[Any, list[str]], Any]] = {
    "jobs": _jobs,
    "status": _status,
    "logs": _logs,
    "attach": _attach,
    "wait": _wait,
    "result": _result,
    "cancel": _cancel,
    "rerun": _rerun,
    "config": _config,
    "prune": _prune,
    "doctor": _doctor,
}
