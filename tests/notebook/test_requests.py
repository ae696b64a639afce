"""What a cell sends along, and what it is refused for before anything starts."""

from __future__ import annotations

import math
import types
from pathlib import Path

import pytest

from nodetool_jupyter.errors import InvalidRequest
from nodetool_jupyter.notebook.requests import (
    asked_environment,
    begins_with_future,
    check_syntax,
    choose_inputs,
    import_line,
    secret_values,
)


def test_auto_takes_what_the_cell_reads_and_the_kernel_has() -> None:
    hidden = {"In": [], "quit": quit}
    namespace = {**hidden, "df": 1, "_": 2, "_private": 3, "display": 4, "unused": 5, "math": math}
    code = "out = df + math.pi + len(df) + missing\ndisplay(_, _private, In, quit)"
    assert choose_inputs("auto", code, namespace, hidden) == ["df", "math"]


def test_a_variable_with_the_name_of_a_builtin_counts_when_it_is_the_persons_own() -> None:
    assert choose_inputs("auto", "sum(x)", {"sum": 1, "x": 2}, {}) == ["sum", "x"]


def test_a_name_that_the_kernel_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"--in names 'b', and the kernel has no such variable"):
        choose_inputs(("a", "b"), "", {"a": 1}, {})


def test_modules_travel_by_name() -> None:
    import xml.dom

    made_up = types.ModuleType("made_up")
    namespace = {"m": math, "math": math, "dom": xml.dom, "made_up": made_up, "x": 1}
    assert import_line(namespace, namespace) == ("import math as m, math, xml.dom as dom", ["made_up", "x"])


def test_a_syntax_error_points_at_the_line_of_the_cell() -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_syntax("\nx = 1\nif x =\n    pass", "Cell In[1]")
    assert str(caught.value) == (
        "Line 3 of the cell is not valid Python: invalid syntax. Nothing was started.\n    if x =\n         ^"
    )


@pytest.mark.parametrize("code", ["return 1", "break", "x = '\0'", "def f(a, a): pass"])
def test_what_only_the_compiler_finds_is_refused_too(code: str) -> None:
    with pytest.raises(InvalidRequest, match=r"Nothing was started"):
        check_syntax(code, "Cell")


def test_a_cell_that_awaits_is_fine() -> None:
    check_syntax("await x\n[i async for i in y]", "Cell")


def test_future_imports_are_seen() -> None:
    assert begins_with_future("'doc'\nfrom __future__ import annotations\nx")
    assert not begins_with_future("import x")


def test_environment_is_read_as_docker_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_KERNEL", "k")
    file = tmp_path / "job.env"
    file.write_text("# comment\n\n  A=1\nB='quoted stays' \nFROM_KERNEL\nC=x=y\n")
    found = asked_environment(["A=2", "D=", "FROM_KERNEL"], [str(file)])
    assert found == {"A": "2", "B": "'quoted stays' ", "FROM_KERNEL": "k", "C": "x=y", "D": ""}


@pytest.mark.parametrize("text", ["=x", "A B=1", " =", "A\0=1"])
def test_what_is_no_variable_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is not NAME or NAME=value"):
        asked_environment([text], [])


def test_a_variable_that_the_kernel_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="the kernel's environment has no 'NOT_THERE'"):
        asked_environment(["NOT_THERE"], [])


def test_an_env_file_that_can_not_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No such file"):
        asked_environment([], [str(tmp_path / "none")])
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        asked_environment([], [str(tmp_path / "binary")])


def test_a_bad_line_of_an_env_file_is_named_by_file_and_number(tmp_path: Path) -> None:
    file = tmp_path / "job.env"
    file.write_text("# comment\n\nA=1\n  B C=2\n")
    with pytest.raises(InvalidRequest, match=r"--env-file .*/job\.env, line 4: 'B C=2' is not NAME or NAME=value"):
        asked_environment([], [str(file)])
    file.write_text("A=1\nNOT_THERE\n")
    with pytest.raises(InvalidRequest, match=r"job\.env, line 2: NOT_THERE: the kernel's environment has no"):
        asked_environment([], [str(file)])


def test_a_secret_comes_from_the_kernel_or_is_refused() -> None:
    assert secret_values(["S"], {"S": "v"}) == {"S": "v"}
    with pytest.raises(InvalidRequest, match="--secret S") as caught:
        secret_values(["S"], {})
    assert "getpass" in str(caught.value)
