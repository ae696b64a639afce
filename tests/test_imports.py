"""What is imported when: nothing by the package's name, little by the extension, the standard library by a worker."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import nodetool_jupyter

PACKAGE = Path(nodetool_jupyter.__file__).parent
ROOT = PACKAGE.parent

WITH_THE_EXTENSION = {"nodetool_jupyter", "msgspec"}
"""Distributions that `%load_ext` may import beyond what a notebook's kernel has imported anyway."""

TAKE_LONG = {
    *("sqlalchemy", "alembic", "docker", "jupyter_server", "anyio", "cloudpickle"),
    *("pandas", "numpy", "pyarrow", "matplotlib", "psycopg", "requests"),
}


def imported(code: str) -> set[str]:
    """The top-level modules that are there after a piece of code, in an interpreter of its own."""
    report = "\nimport sys, json; print('\\n' + json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code + report], check=True, capture_output=True, text=True, timeout=60)
    return set(json.loads(done.stdout.splitlines()[-1]))


def third_party(modules: set[str]) -> set[str]:
    return {name for name in modules if name not in sys.stdlib_module_names and not name.startswith("_")}


def test_importing_the_package_imports_nothing_else() -> None:
    assert imported("import nodetool_jupyter") - imported("") == {"nodetool_jupyter"}


def test_the_version_needs_no_import() -> None:
    assert imported("import nodetool_jupyter; nodetool_jupyter.__version__") - imported("") == {"nodetool_jupyter"}


KERNEL = """
import ipykernel.ipkernel, ipykernel.zmqshell, ipykernel.kernelapp
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
"""


def test_loading_the_extension_imports_only_what_is_on_the_list() -> None:
    added = imported(KERNEL + "shell.run_line_magic('load_ext', 'nodetool_jupyter')") - imported(KERNEL)
    assert third_party(added) <= WITH_THE_EXTENSION
    assert "nodetool_jupyter" in added


def test_loading_the_extension_leaves_the_slow_ones_for_the_first_job() -> None:
    assert not imported(KERNEL + "shell.run_line_magic('load_ext', 'nodetool_jupyter')") & TAKE_LONG


def test_helpers_for_inside_a_job_import_the_standard_library_only() -> None:
    added = imported("from nodetool_jupyter import progress, output, cancelled, save") - imported("")
    assert third_party(added) == {"nodetool_jupyter"}


@pytest.mark.parametrize("name", sorted(set(nodetool_jupyter.__all__) - {"__version__"}))
def test_a_public_name_is_where_the_package_says(name: str) -> None:
    assert getattr(nodetool_jupyter, name) is not None


def test_a_name_that_is_not_there_says_so() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = nodetool_jupyter.nope


@pytest.mark.parametrize("name", ["errors", "worker.main", "worker.supervisor", "worker.inside"])
def test_what_starts_without_site_packages_needs_none(name: str) -> None:
    """As the supervisor and every job start: isolated, without `site`."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import nodetool_jupyter.{name}"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, timeout=60)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", name, maxsplit=1)[0]).lower()


def test_every_distribution_that_is_imported_is_declared() -> None:
    """An import inside a job's own code path that is optional must be guarded, so it need not be declared."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = {normal(line) for line in project["project"]["dependencies"]}
    for extra in project["project"]["optional-dependencies"].values():
        declared |= {normal(line) for line in extra}
    providers = importlib.metadata.packages_distributions()
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.is_relative_to(PACKAGE / "worker"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            for name in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"nodetool_jupyter"}:
                found = {normal(distribution) for distribution in providers.get(name, [name])}
                assert found & declared, f"{path.name}:{node.lineno} imports {name}, which pyproject.toml doesn't name"


def test_every_module_can_be_imported_by_itself() -> None:
    names = [
        ".".join(("nodetool_jupyter", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name not in {"boot.py", "env.py"} and "versions" not in path.parts
    ]
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)"
    assert "nodetool_jupyter" in imported(code)
