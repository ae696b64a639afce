"""What `make demo` says while it runs a notebook."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import nbformat
import pytest


@pytest.fixture
def live() -> ModuleType:
    path = Path(__file__).parent.parent / "notebooks" / "live.py"
    spec = importlib.util.spec_from_file_location("live", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_cells_are_counted_without_the_text_between_them(
    live: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    notebook = nbformat.v4.new_notebook(cells=[text("# one"), code("print(1)"), text("# two"), code("2\n3")])
    live.Live(notebook, live.Terminal(), resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert said == ["[1/2] print(1)", "[2/2] 2 …"]
