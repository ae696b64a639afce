"""The shape of the package: who may import whom, and where the few dangerous things may stand."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

import nodetool_jupyter

PACKAGE = Path(nodetool_jupyter.__file__).parent
NAME = "nodetool_jupyter"

FLOORS: dict[str, int] = {
    "errors": 0, "worker": 0, "workflow": 0,
    "config": 1, "containers": 1, "events": 1, "frames": 1, "jobs": 1, "mount_table": 1, "places": 1, "quantities": 1,
    "verdict": 1, "view": 1,
    "assets": 2, "housekeeping": 2, "runners": 2, "sandbox": 2, "stores": 2,
    "admission": 3, "engine": 3, "feed": 3, "keeper": 3, "kept": 3, "following": 3, "ledger": 3,
    "loop": 3, "manager": 3, "redaction": 3, "screening": 3, "supervision": 3, "testing": 3,
    "cli": 4, "notebook": 4, "server": 4,
}  # fmt: skip
"""The floor of each module or package at the top level."""

APART = [{"stores", "runners"}, {"notebook", "server", "cli"}]
"""These stand on one floor and never import each other."""

BROAD_EXCEPT = {
    "runners/docker/threads.py": "an executor: whoever waits for a call gets what it raised",
    "supervision.py": "the manager's supervisor: whatever goes wrong with one job ends that job only",
    "worker/execute.py": "around user code",
    "worker/process.py": "around what the job's own signal handlers raise between two steps of ours",
    "worker/supervisor.py": "the supervisor outlives whatever one job does",
}
"""Files that may say `except Exception`, each with its reason."""

READS_ENVIRONMENT = {"config.py"}
"""Beside worker/, which lives in a job's own environment."""

LONGEST_FILE, LONGEST_FUNCTION, MEDIAN_FILE = 400, 40, 200
"""In lines; tests are files too. A migration, which is one step and never changes again, may be a longer function."""

FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def module_of(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in FILES}


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Modules of the package that a file imports anywhere, inside functions too, each with its line."""
    package = list(path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == NAME:
                    yield alias.name.removeprefix(NAME).lstrip("."), node.lineno
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
            elif node.module and node.module.split(".")[0] == NAME:
                base = []
            else:
                continue
            inner = (node.module or "").removeprefix(NAME).lstrip(".") if not node.level else node.module or ""
            target = ".".join([*base, *filter(None, inner.split("."))])
            for alias in node.names:
                full = f"{target}.{alias.name}".lstrip(".")
                yield (full if full in MODULES else target), node.lineno


def top(module: str) -> str:
    return module.split(".")[0]


def faults(found: Iterator[str]) -> None:
    listed = list(found)
    assert not listed, "\n".join(["", *listed])


def test_every_module_stands_on_a_floor() -> None:
    assert {top(module) for module in MODULES if module} <= set(FLOORS)


def test_no_module_imports_from_a_floor_above_it() -> None:
    faults(
        f"{relative(path)}:{line} is on floor {FLOORS[top(module_of(path))]} and imports {name}, which is above it"
        for path in FILES
        if module_of(path)
        for name, line in imported(path)
        if name and FLOORS[top(name)] > FLOORS[top(module_of(path))]
    )


def test_nothing_imports_the_package_itself_but_for_its_version() -> None:
    faults(
        f"{relative(path)}:{node.lineno} imports {alias.name} from the package's top"
        for path in FILES
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.ImportFrom)
        and (node.module == NAME or (node.module is None and node.level == len(path.relative_to(PACKAGE).parts)))
        for alias in node.names
        if alias.name != "__version__" and alias.name not in {top(module) for module in MODULES}
    )


@pytest.mark.parametrize("group", APART, ids=lambda group: "-".join(sorted(group)))
def test_neighbours_that_must_stay_apart_do(group: set[str]) -> None:
    faults(
        f"{relative(path)}:{line} imports {name}"
        for path in FILES
        if top(module_of(path)) in group
        for name, line in imported(path)
        if top(name) in group - {top(module_of(path))}
    )


def test_there_is_no_import_cycle() -> None:
    graph = {module_of(path): {name for name, _ in imported(path) if name} - {module_of(path)} for path in FILES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for name in sorted(graph.get(module, ())):
                visit(name, (*trail, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_the_environment_is_read_in_one_place() -> None:
    faults(
        f"{relative(path)}:{node.lineno} reads the environment"
        for path in FILES
        if relative(path) not in READS_ENVIRONMENT and top(module_of(path)) != "worker"
        for node in ast.walk(TREES[path])
        if (
            isinstance(node, ast.Attribute)
            and node.attr in {"environ", "environb", "getenv"}
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
        )
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and any("env" in a.name for a in node.names))
    )


def test_everything_is_caught_only_where_it_may_be() -> None:
    def broad(handler: ast.ExceptHandler) -> bool:
        kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        return any(k is None or (isinstance(k, ast.Name) and k.id in {"Exception", "BaseException"}) for k in kinds)

    def passes_on(handler: ast.ExceptHandler) -> bool:
        last = handler.body[-1]
        return isinstance(last, ast.Raise) and last.exc is None

    faults(
        f"{relative(path)}:{node.lineno} catches everything"
        for path in FILES
        if relative(path) not in BROAD_EXCEPT
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.ExceptHandler) and broad(node) and not passes_on(node)
    )


def test_no_file_and_no_function_is_too_long() -> None:
    def long() -> Iterator[str]:
        for path in (*FILES, *sorted((PACKAGE.parent / "tests").rglob("*.py"))):
            lines = len(path.read_text().splitlines())
            if lines > LONGEST_FILE:
                yield f"{path.relative_to(PACKAGE.parent)} has {lines} lines, more than {LONGEST_FILE}"
        for path in FILES:
            for node in ast.walk(TREES[path]):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and "versions" not in path.parts:
                    length = (node.end_lineno or node.lineno) - node.lineno + 1
                    if length > LONGEST_FUNCTION:
                        yield f"{relative(path)}:{node.lineno} {node.name} has {length} lines"

    faults(long())


def test_most_files_are_short() -> None:
    lengths = [len(path.read_text().splitlines()) for path in FILES if path.name != "__init__.py"]
    assert statistics.median(lengths) < MEDIAN_FILE


def test_no_module_is_a_drawer_for_everything() -> None:
    assert not {path.stem for path in FILES} & {"utils", "util", "helpers", "helper", "common", "misc"}


def test_the_architecture_names_every_module() -> None:
    named = set(re.findall(r"`([\w.]+)`", (PACKAGE.parent / "ARCHITECTURE.md").read_text()))
    words = {word for name in named for word in (name, name.split(".")[-1])}
    wanted = {name for name in MODULES if name and not name.startswith(("stores.migrations.", "notebook."))}
    assert not {
        name for name in wanted if name.split(".")[-1] not in words and name not in {"worker", "stores", "runners"}
    }
