from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from nodetool_jupyter.worker.imports import apply_missed, when_imported


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that can be imported and was not yet."""
    name = "imported_in_a_test"
    (tmp_path / f"{name}.py").write_text("value = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


def test_a_hook_is_called_once_when_the_module_is_imported(module: str) -> None:
    seen: list[int] = []
    when_imported(module, lambda found: seen.append(found.value))
    assert seen == []
    importlib.import_module(module)
    importlib.import_module(module)
    assert seen == [1]


def test_a_hook_for_a_module_that_is_there_is_called_at_once() -> None:
    seen: list[ModuleType] = []
    when_imported("sys", seen.append)
    assert seen == [sys]


def test_the_imported_module_keeps_its_own_loader(module: str) -> None:
    when_imported(module, lambda found: None)
    found = importlib.import_module(module)
    assert found.__spec__ is not None
    assert found.__loader__ is found.__spec__.loader
    assert not type(found.__loader__).__module__.startswith("nodetool_jupyter")
    assert importlib.reload(found).value == 1


def test_a_module_that_came_another_way_is_found_later(module: str) -> None:
    seen: list[ModuleType] = []
    when_imported(module, seen.append)
    sys.modules[module] = ModuleType(module)
    apply_missed()
    assert seen == [sys.modules[module]]


def test_a_module_that_is_not_there_is_missed_as_ever() -> None:
    when_imported("there_is_no_such_module", lambda found: None)
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        importlib.import_module("there_is_no_such_module")
