"""What waiting interpreters are made of, learnt from the jobs that were run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..jobs import Job
from ..places import resource_name
from ..worker.tree import JOB_VARIABLE, NO_JOB
from .base import Parcel

_OWN_VARIABLES = frozenset({JOB_VARIABLE, "TMPDIR"})
_MOST_MODULES = 64
_IDLE = 2
_IMPORT = re.compile(r"(?:^|[;:])[ \t]*(?:from[ \t]+(\w[\w.]*)[ \t]+import\b|import[ \t]+(\w[\w., \t]*))", re.MULTILINE)


class Warmth:
    """One warm parent's make: an interpreter, an environment, a path, and the modules that jobs import.

    `key_for` is "" for a job that needs another environment than the one that interpreters wait in;
    it starts anew. `learn` returns an order for the supervisor when they have to be made differently.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = list(argv)
        self._surroundings: tuple[dict[str, str], list[str]] | None = None
        self._modules: dict[str, None] = {}
        self._key = ""

    def forget(self) -> None:
        """Nobody waits any more: the supervisor is a new one."""
        self._key = ""

    def key_for(self, environ: Mapping[str, str], parcel: Parcel) -> str:
        """The key under which a waiting interpreter fits a job with this environment."""
        return self._key if self._surroundings == _surroundings(environ, parcel) else ""

    def learn(self, job: Job, environ: Mapping[str, str], parcel: Parcel) -> dict[str, Any] | None:
        """Take note of a job; the order for a new warm parent, or `None` while the old one fits."""
        surroundings = _surroundings(environ, parcel)
        if self._surroundings != surroundings and (self._surroundings is None or not job.request.env):
            self._surroundings = surroundings
        elif self._surroundings != surroundings:
            return None
        for name in _imported(job.request.work.runnable, parcel):
            if len(self._modules) < _MOST_MODULES:
                self._modules[name] = None
        environ, sys_path = surroundings
        key = _key(environ, sys_path, self._modules)
        if key == self._key:
            return None
        self._key = key
        return {
            "key": key,
            "argv": self._argv,
            "env": {**environ, JOB_VARIABLE: NO_JOB},
            "cwd": "/",
            "sys_path": sys_path,
            "modules": list(self._modules),
            "idle": _IDLE,
            "group": resource_name(job.owner, f"warm_{key}"),
        }


def _surroundings(environ: Mapping[str, str], parcel: Parcel) -> tuple[dict[str, str], list[str]]:
    kept = {name: value for name, value in environ.items() if name not in _OWN_VARIABLES}
    return kept, list(parcel.sys_path)


def _imported(code: str, parcel: Parcel) -> Iterable[str]:
    """Modules that the code imports by name, and those of the values that it is given.

    Not by `ast`, which must not be used in two threads at once (see `execute.parse`): the kernel's main thread
    does that with the next cell. A line of a text that reads like an import costs no more than that import.
    """
    for module, several in _IMPORT.findall(code):
        yield from [module] if module else [each.split()[0] for each in several.split(",") if each.strip()]
    for value in parcel.inputs:
        module, dot, _ = value.type_name.partition(".")
        if dot:
            yield module


def _key(environ: Mapping[str, str], sys_path: Sequence[str], modules: Iterable[str]) -> str:
    text = json.dumps([sorted(environ.items()), list(sys_path), sorted(modules)])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
