"""Files that a job saves stay inside its own folder."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodetool_jupyter.assets import MAX_FILES, AssetFolder
from nodetool_jupyter.config import Settings
from nodetool_jupyter.errors import InvalidRequest
from nodetool_jupyter.events import Notification, OutputUpdate
from nodetool_jupyter.frames import FilePart, Returned
from nodetool_jupyter.jobs import CodeWork, JobRequest
from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.testing import ScriptedRunner, collect


@contextmanager
def a_disk_that_takes(size: int) -> Iterator[None]:
    """No file grows larger than this meanwhile: the write fails, in its middle, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def folder(tmp_path: Path) -> AssetFolder:
    return AssetFolder(tmp_path / "assets", "job", max_bytes=1000)


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


def test_a_file_that_is_too_large_is_refused_once_and_nothing_of_it_stays(folder: AssetFolder) -> None:
    folder.write("big", b"x" * 900, last=False)
    with pytest.raises(InvalidRequest, match="--max-transfer"):
        folder.write("big", b"x" * 200, last=False)
    assert folder.write("big", b"x", last=False) is None
    assert folder.write("big", b"x", last=True) is None
    assert list(folder.root.iterdir()) == []
    assert folder.write("big", b"x" * 1000, last=True) == folder.root / "big"


def test_a_file_that_the_disk_does_not_take_is_refused_once_and_never_has_a_hole(folder: AssetFolder) -> None:
    folder.write("f", b"x" * 100, last=False)
    with a_disk_that_takes(150), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        folder.write("f", b"x" * 100, last=False)
    assert folder.write("f", b"end", last=True) is None
    assert list(folder.root.iterdir()) == []
    path = folder.write("f", b"y" * 1000, last=True)
    assert path is not None
    assert path.read_bytes() == b"y" * 1000


def test_a_file_that_the_job_gave_up_is_no_part_of_the_next_of_its_name(folder: AssetFolder) -> None:
    folder.write("f", b"x" * 900, last=False)
    folder.give_up("f")
    folder.give_up("never heard of")
    path = folder.write("f", b"whole" * 200, last=True)
    assert path == folder.root / "f"
    assert path.read_bytes() == b"whole" * 200


def test_the_number_of_refusals_is_bounded(folder: AssetFolder) -> None:
    refused = 0
    for n in range(2 * MAX_FILES):
        try:
            folder.write(f"{n}/..", b"", last=n % 2 == 0)
        except InvalidRequest:
            refused += 1
    assert refused == MAX_FILES


def test_a_job_tells_once_of_a_file_that_was_not_brought_back(settings: Settings) -> None:
    parts = [FilePart("f", body=b"x" * 100), FilePart("f", body=b"x" * 100), FilePart("f", last=True, body=b"x" * 100)]
    gone = [FilePart("g", body=b"x"), FilePart("g", last=True, given_up=True)]
    runner = ScriptedRunner(*parts, *gone, FilePart("h", last=True, body=b"x"), Returned())
    with JobExecutionManager(settings, runners=[runner]) as manager:
        request = JobRequest(work=CodeWork("1"), runner="scripted", max_transfer_bytes=150)
        events = collect(manager, manager.submit(request).id)
    [note] = [event for event in events if isinstance(event, Notification)]
    assert note.severity == "error"
    assert note.content.startswith("File 'f' was not brought back: ")
    assert [event.output_name for event in events if isinstance(event, OutputUpdate)] == ["h"]
