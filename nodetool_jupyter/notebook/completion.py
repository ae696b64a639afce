"""Completion of options, their values and verbs, for both magics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..config import BY_NAME, RUNNERS
from .options import OPTIONS, VALUES
from .session import Session

_KEYS = ("%%nodetool", "%nodetool")
VERBS = ("jobs", "status", "logs", "attach", "wait", "result", "cancel", "rerun", "config", "prune", "doctor")
_OF_ONE_JOB = {"status", "logs", "attach", "wait", "result", "cancel", "rerun"}
_LONG = {flag: flags[-1] for flags, _ in OPTIONS for flag in flags}
_TAKES_VALUE = {flag for flags, settings in OPTIONS if "metavar" in settings for flag in flags}


def install(shell: Any, session: Session) -> None:
    """Complete lines that begin with the magics."""

    def complete(shell: Any, event: Any) -> list[str]:
        return candidates(session, event.line, event.symbol)

    for key in _KEYS:
        shell.set_hook("complete_command", complete, str_key=key)


def uninstall(shell: Any) -> None:
    """Complete them no more."""
    completers = getattr(shell, "Completer", None)
    strings = getattr(getattr(completers, "custom_completers", None), "strs", {})
    for key in _KEYS:
        strings.pop(key, None)


def candidates(session: Session, line: str, symbol: str) -> list[str]:
    """What may stand in place of `symbol`, the last word of the line; raises nothing."""
    words = line.split()
    if symbol and words and words[-1].endswith(symbol):
        words[-1] = words[-1].removesuffix(symbol)
        words = [word for word in words if word]
    magic, before = (words[0], words[1:]) if words else ("", [])
    complete = _after_verb if magic == "%nodetool" else _option_or_value
    found = complete(session, before, symbol)
    return sorted(word for word in found if word.startswith(symbol))


def _after_verb(session: Session, before: list[str], symbol: str) -> list[str]:
    if not before:
        return list(VERBS)
    verb = before[0]
    if verb == "config":
        return (
            list(BY_NAME)
            if len(before) == 1
            else list(VALUES.get(f"--{before[1]}", RUNNERS if before[1] == "runner" else ()))
        )
    own = {"logs": ["-f"], "cancel": ["--all"], "prune": ["--older-than"]}.get(verb, [])
    jobs = _jobs(session) if verb in _OF_ONE_JOB and len(before) == 1 else []
    return [*own, *jobs, *(_option_or_value(session, before, symbol) if verb == "rerun" and len(before) > 1 else [])]


def _option_or_value(session: Session, before: list[str], symbol: str) -> list[str]:
    last = before[-1].removesuffix("=") if before else ""
    if last in _TAKES_VALUE and not symbol.startswith("-"):
        return _values(session, _LONG[last])
    given = {_LONG.get(word, word) for word in before}
    return [
        long for long in dict.fromkeys(_LONG.values()) if long not in given or long in ("--env", "--label", "--secret")
    ]


def _values(session: Session, option: str) -> list[str]:
    known: dict[str, Callable[[], list[str]]] = {
        "--runner": lambda: list(RUNNERS),
        "--in": lambda: [*VALUES["--in"], *_variables(session)],
        "--out": lambda: _variables(session),
        "--secret": lambda: sorted(session.settings().environ),
        "--env": lambda: sorted(session.settings().environ),
    }
    return known[option]() if option in known else list(VALUES.get(option, ()))


def _variables(session: Session) -> list[str]:
    shell = session.shell
    return [name for name in shell.user_ns if not name.startswith("_") and name not in shell.user_ns_hidden]


def _jobs(session: Session) -> list[str]:
    if not session.has_run:
        return ["-1"]
    return ["-1", *(job.id[:8] for job in session.manager.find(limit=20))]
