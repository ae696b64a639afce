"""Files that a job saves stay inside its own folder."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from nodetool_jupyter.assets import AssetFolder
from nodetool_jupyter.errors import InvalidRequest


@pytest.fixture
def folder(tmp_path: Path) -> AssetFolder:
    return AssetFolder(tmp_path / "assets" / "job", max_bytes=1000)


def test_a_file_comes_in_pieces_and_is_private(folder: AssetFolder) -> None:
    assert folder.write("out/plot.png", b"abc", last=False) is None
    path = folder.write("out/plot.png", b"def", last=True)
    assert path is not None
    assert path.read_bytes() == b"abcdef"
    assert path == folder.root / "plot.png"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.root.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a\\..\\x", "..//x", "x\0"])
def test_no_name_leads_out_of_the_folder(folder: AssetFolder, name: str) -> None:
    path = folder.write(name, b"1", last=True)
    assert path == folder.root / "x"


@pytest.mark.parametrize("name", ["", "..", "a/..", "a/", "n" * 300])
def test_a_name_that_is_none_is_refused(folder: AssetFolder, name: str) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        folder.write(name, b"1", last=True)


def test_two_files_of_one_name_both_stay(folder: AssetFolder) -> None:
    first = folder.write("a/plot.tar.gz", b"1", last=True)
    second = folder.write("b/plot.tar.gz", b"2", last=True)
    assert first is not None
    assert second is not None
    assert (first.name, second.name) == ("plot.tar.gz", "plot-2.tar.gz")
    assert (first.read_bytes(), second.read_bytes()) == (b"1", b"2")


def test_more_bytes_than_allowed_are_refused(folder: AssetFolder) -> None:
    with pytest.raises(InvalidRequest, match="--max-transfer"):
        folder.write("big", b"x" * 1001, last=True)


def test_a_link_that_stands_in_the_way_is_not_followed(folder: AssetFolder, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("keep")
    folder.root.mkdir(parents=True)
    (folder.root / "x").symlink_to(target)
    with pytest.raises(OSError, match="x"):
        folder.write("x", b"evil", last=True)
    assert target.read_text() == "keep"


def test_a_file_without_its_end_is_not_kept(folder: AssetFolder) -> None:
    folder.write("half", b"1", last=False)
    folder.close()
    assert list(folder.root.iterdir()) == []
