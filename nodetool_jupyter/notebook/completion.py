"""Completion of options, their values and verbs, for both magics."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

from ..config import BY_NAME, RUNNERS
from ..errors import NodetoolError
from .options import OPTIONS, VALUES
from .session import Session

_IDENTIFIER = "nodetool"
_BEFORE_OTHERS = 1000.0
_OURS = re.compile(r"%%?nodetool\s")
_PLAIN = re.compile(r"[\w.-]+")
_MOST_JOBS = 20
_WORD_END = re.compile(r"[\s=,]")
VERBS = ("jobs", "status", "logs", "attach", "wait", "result", "cancel", "rerun", "config", "prune", "doctor")
_OF_ONE_JOB = {"status", "logs", "attach", "wait", "result", "cancel", "rerun"}
_LONG = {flag: flags[-1] for flags, _ in OPTIONS for flag in flags}
_TAKES_VALUE = {flag for flags, settings in OPTIONS if "metavar" in settings for flag in flags}


def install(shell: Any, session: Session) -> None:
    """Complete lines that begin with the magics: ours alone, without IPython's files and names."""

    @context_matcher(identifier=_IDENTIFIER, priority=_BEFORE_OTHERS)  # type: ignore[untyped-decorator]  # IPython's
    def complete(context: CompletionContext) -> SimpleMatcherResult:
        line = context.text_until_cursor.lstrip()
        symbol = _WORD_END.split(line)[-1]
        ours = bool(_OURS.match(line)) and (context.cursor_line == 0 or not line.startswith("%%"))
        found = candidates(session, line, symbol) if ours else []
        completions = [SimpleCompletion(text=text, type="param") for text in found]
        return {"completions": completions, "matched_fragment": symbol, "suppress": True}

    uninstall(shell)
    shell.Completer.custom_matchers.append(complete)


def uninstall(shell: Any) -> None:
    """Complete them no more."""
    completer = shell.Completer
    completer.custom_matchers = [
        each for each in completer.custom_matchers if getattr(each, "matcher_identifier", "") != _IDENTIFIER
    ]


def candidates(session: Session, line: str, symbol: str) -> list[str]:
    """What may stand in place of `symbol`, the last word of the line; raises nothing."""
    words = line.split()
    if symbol and words and words[-1].endswith(symbol):
        words[-1] = words[-1].removesuffix(symbol)
        words = [word for word in words if word]
    magic, before = (words[0], words[1:]) if words else ("", [])
    complete = _after_verb if magic == "%nodetool" else _option_or_value
    try:
        found = complete(session, before, symbol)
    except NodetoolError:  # a setting or a store that can't be used is no affair of the Tab key
        found = []
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
    own = {"jobs": ["--label"], "logs": ["-f"], "cancel": ["--all"], "prune": ["--older-than"]}.get(verb, [])
    jobs = _jobs(session, open_only=verb == "cancel") if verb in _OF_ONE_JOB and len(before) == 1 else []
    return [*own, *jobs, *(_option_or_value(session, before, symbol) if verb == "rerun" and len(before) > 1 else [])]


def _option_or_value(session: Session, before: list[str], symbol: str) -> list[str]:
    last = before[-1] if before else ""
    if last.endswith(","):  # in a list of names
        last = last.partition("=")[0] if "=" in last else before[-2] if len(before) > 1 else ""
    last = last.removesuffix("=")
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


def _jobs(session: Session, *, open_only: bool) -> list[str]:
    """Beginnings of ids and names of the newest jobs, or of those that can still be stopped."""
    if not session.has_run:
        return ["-1"]
    jobs = [job for job in session.manager.find(limit=_MOST_JOBS) if not (open_only and job.status.final)]
    names = {job.request.name for job in jobs if _PLAIN.fullmatch(job.request.name)}
    return ["-1", *(job.id[:8] for job in jobs), *names]
