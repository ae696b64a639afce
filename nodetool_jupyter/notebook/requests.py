"""From options and a cell to a request and what goes with it; every refusal that needs no runner is made here."""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import os
import platform
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..config import environment, job_environment
from ..errors import InvalidRequest, ValueCannotTravel
from ..frames import Value
from ..jobs import CodeWork, JobRequest
from ..runners.base import Parcel, Runner
from .names import names_read
from .newer_syntax import may_take, names_in
from .options import AUTO, Options

_NOTHING = "Nothing was started."
_NEVER_INPUTS = {"In", "Out", "display", "get_ipython", "exit", "quit"}


@contextlib.contextmanager
def nothing_started() -> Iterator[None]:
    """Have what is refused on the way to a job say so at its end, wherever it was found."""
    try:
        yield
    except (InvalidRequest, ValueCannotTravel) as error:
        if _NOTHING not in str(error):
            error.args = (f"{error} {_NOTHING}",)
        raise


def cell_request(options: Options, cell: str, *, code: str, filename: str, shares_namespace: bool) -> JobRequest:
    """The request of a cell; its inputs still as asked for. Raises `InvalidRequest`."""
    if not cell.strip():
        raise InvalidRequest("The cell is empty below %%nodetool. Write the code to run there. Nothing was started.")
    return JobRequest(
        work=CodeWork(cell, code, filename),
        runner=options.runner,
        profile=options.profile,
        limits=options.limits,
        outputs=options.outputs,
        env=asked_environment(options.env, options.env_files),
        secrets=tuple(dict.fromkeys(options.secrets)),
        name=options.name,
        labels=options.labels,
        python=options.python,
        fresh=options.fresh,
        container=options.container,
        cwd="" if shares_namespace else working_directory(),
        grace_seconds=options.grace_seconds,
        max_output_bytes=options.max_output_bytes,
        max_transfer_bytes=options.max_transfer_bytes,
        work_hash=hashlib.sha256(cell.strip().encode("utf-8", "surrogatepass")).hexdigest()[:32],
    )


def working_directory() -> str:
    """Where the kernel is; "" when that folder is gone."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


def check_syntax(code: str, filename: str, version: Callable[[], str] = platform.python_version) -> bool:
    """Refuse code that can't be compiled, pointing at the cell's line; whether this Python's parser takes it.

    version: asked for that of the job's Python, "" where nobody knows it yet, where this one's parser refuses. What
    a newer one may take is its own to judge. Raises `InvalidRequest`.
    """
    from ..worker.execute import Cell

    try:
        Cell(code, filename)
    except SyntaxError as error:
        if may_take(version(), error, code):
            return False
        raise InvalidRequest(_syntax_sentence(error)) from None
    except ValueError as error:
        raise InvalidRequest(f"The cell can't be compiled: {error}. Nothing was started.") from None
    return True


def _syntax_sentence(error: SyntaxError) -> str:
    where = f"Line {error.lineno} of the cell" if error.lineno else "The cell"
    sentence = f"{where} is not valid Python: {error.msg}. Nothing was started."
    if not error.text:
        return sentence
    line = error.text.rstrip("\n")
    indent = len(line) - len(line.lstrip())
    caret = max(0, (error.offset or 1) - 1 - indent)
    return f"{sentence}\n    {line.strip()}\n    {' ' * caret}^"


def choose_inputs(
    asked: tuple[str, ...] | str,
    code: str,
    namespace: Mapping[str, Any],
    hidden: Mapping[str, Any],
    *,
    parsed: bool = True,
) -> list[str]:
    """The names to send. Raises `InvalidRequest` for one that was asked for and isn't there.

    hidden: what IPython itself put into the namespace. parsed: this Python's parser takes the code.
    """
    if asked != AUTO:
        for name in asked:
            if name not in namespace:
                raise InvalidRequest(
                    f"--in names {name!r}, and the kernel has no such variable. Assign it first, or leave it out. "
                    "Nothing was started."
                )
        return list(asked)
    names = names_read(code) if parsed else names_in(code)
    return [name for name in sorted(names) if _counts(name, namespace, hidden)]


def _counts(name: str, namespace: Mapping[str, Any], hidden: Mapping[str, Any]) -> bool:
    if name not in namespace or name.startswith("_") or name in _NEVER_INPUTS:
        return False
    return not (name in hidden and hidden[name] is namespace[name])


def import_line(names: Iterable[str], namespace: Mapping[str, Any]) -> tuple[str, list[str]]:
    """One line that imports the modules among the names, and the names that are no modules."""
    imports, others = [], []
    for name in names:
        module = namespace[name]
        known = getattr(module, "__name__", "")
        if isinstance(module, ModuleType) and sys.modules.get(known) is module and known != "__main__":
            imports.append(known if known == name else f"{known} as {name}")
        else:
            others.append(name)
    return f"import {', '.join(imports)}" if imports else "", others


def encode_inputs(
    names: Iterable[str], namespace: Mapping[str, Any], request: JobRequest, other_python: str
) -> tuple[list[Value], dict[str, tuple[str, str]]]:
    """The values, encoded in this thread, and the sources of cells that their code comes from.

    Raises `ValueCannotTravel`.
    """
    from ..worker.pickled import encode_input
    from ..worker.sources import gather

    values = []
    files: set[str] = set()
    most = request.most_bytes_in
    for name in names:
        fields, buffers = encode_input(name, namespace[name], max_bytes=most, other_python=other_python, files=files)
        values.append(Value(**{**fields, "sizes": tuple(fields["sizes"])}, body=buffers))
    return values, gather(sorted(files))


def travels(name: str, value: object, request: JobRequest, other_python: str) -> bool:
    """Whether a value can be sent to another Python; see `encode_inputs`."""
    from ..worker.pickled import encode_input

    try:
        encode_input(name, value, max_bytes=request.most_bytes_in, other_python=other_python)
    except ValueCannotTravel:
        return False
    return True


def make_parcel(
    request: JobRequest,
    runner: Runner,
    names: list[str],
    namespace: dict[str, Any],
    *,
    shared: dict[str, Any] | None,
    other_python: str,
) -> Parcel:
    """What goes with the request. `shared`: the namespace that a runner in this process works on; `other_python` as
    `Runner.speaks_other` has it."""
    environ = environment()
    if runner.shares_namespace:
        return Parcel(namespace=shared, context=contextvars.copy_context())
    inputs, sources = encode_inputs(names, namespace, request, other_python)
    return Parcel(
        inputs=inputs,
        sources=sources,
        environ=job_environment(environ, request),
        secrets=secret_values(request.secrets, environ, apart_from=request.env),
        sys_path=tuple(path or working_directory() for path in sys.path),
        context=contextvars.copy_context(),
    )


def begins_with_future(code: str) -> bool:
    """Whether nothing may stand before the code's first statement."""
    return any(line.lstrip().startswith("from __future__") for line in code.splitlines())


def asked_environment(given: Iterable[str], files: Iterable[str]) -> dict[str, str]:
    """`--env-file`s, then `-e`, as `docker run` reads them. Raises `InvalidRequest`."""
    found: dict[str, str] = {}
    environ = environment()
    for file in files:
        for number, line in _lines(file):
            name, value = _variable(line, environ, f"--env-file {file}, line {number}: ")
            found[name] = value
    for text in given:
        name, value = _variable(text, environ, "-e ")
        found[name] = value
    return found


def _lines(file: str) -> list[tuple[int, str]]:
    """The lines that say something, each with its number."""
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InvalidRequest(f"--env-file {file!r} can't be read: {why}. Nothing was started.") from None
    lines = enumerate(text.splitlines(), 1)
    return [(number, line.lstrip()) for number, line in lines if line.strip() and not line.lstrip().startswith("#")]


def _variable(text: str, environ: Mapping[str, str], where: str) -> tuple[str, str]:
    name, given, value = text.partition("=")
    if not name or name != name.strip() or any(ch.isspace() or ch == "\0" for ch in name) or "\0" in value:
        raise InvalidRequest(f"{where}{text!r} is not NAME or NAME=value. Nothing was started.")
    if given:
        return name, value
    if name not in environ:
        raise InvalidRequest(
            f"{where}{name}: the kernel's environment has no {name!r}. Write {name}=value. Nothing was started."
        )
    return name, environ[name]


def secret_values(
    names: Iterable[str], environ: Mapping[str, str], *, apart_from: Collection[str] = ()
) -> dict[str, str]:
    """The secrets from the kernel's environment. Raises `InvalidRequest` for one that isn't there, or is no secret."""
    for name in names:
        if name in apart_from:
            raise InvalidRequest(f"{name} is given with -e and with --secret. Leave one out. Nothing was started.")
        if name not in environ:
            raise InvalidRequest(
                f"--secret {name}: the kernel's environment has no {name!r}. "
                f"Set it first, as with os.environ[{name!r}] = getpass.getpass(). Nothing was started."
            )
    return {name: environ[name] for name in names}
