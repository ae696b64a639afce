"""The private places of job things."""

from __future__ import annotations

import os
import stat
import tempfile
import threading

import pytest

from nodetool_jupyter import places
from nodetool_jupyter.errors import Refused


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_every_level_is_private_whatever_the_umask():
    before = os.umask(0)
    try:
        folder = places.job_folder("owner1", "job1")
    finally:
        os.umask(before)
    assert (folder.name, folder.parent.name) == ("job1", "owner1")
    assert [mode(path) for path in (folder, folder.parent, places.job_root())] == [0o700] * 3
    assert places.job_folder("owner1", "job1") == folder


def test_a_root_that_others_may_enter_is_closed():
    places.job_root().chmod(0o755)
    assert mode(places.job_root()) == 0o700


@pytest.mark.parametrize("trap", ["link", "file"])
def test_a_root_that_is_no_folder_of_ours_is_refused(temporary_folder, tmp_path_factory, trap):
    root = temporary_folder / f"nodetool-{os.geteuid()}"
    if trap == "link":
        root.symlink_to(tmp_path_factory.mktemp("target"))
    else:
        root.touch()
    with pytest.raises(Refused, match="TMPDIR"):
        places.job_folder("owner1", "job1")


@pytest.mark.parametrize("job_id", ["../../x", "a/b", ".", "", "-x", "é" * 40, "x" * 300, "a\0b", "\udc80"])
def test_an_id_that_is_no_name_becomes_one_that_stays_inside(job_id):
    folder = places.job_folder("o1", job_id)
    assert folder.parent == places.owner_root("o1")
    assert folder.is_dir()
    assert folder == places.job_folder("o1", job_id)


def test_the_name_of_a_resource_tells_its_owner():
    assert places.owner_in(places.resource_name("owner1", "a-job")) == "owner1"
    dashed = places.resource_name("owner-1", "job")
    assert places.owner_in(dashed) == places.owner_part("owner-1") != "owner"
    assert places.owner_in(dashed + "-more") == places.owner_part("owner-1")


@pytest.mark.parametrize("name", ["nodetool-999999-o-j", "other", "nodetool-", f"nodetool-{os.geteuid()}-x"])
def test_names_of_others_have_no_owner(name):
    assert places.owner_in(name) is None


def test_a_job_folder_is_made_while_a_sweep_removes_the_empty_one_of_its_owner():
    stop = threading.Event()

    def sweep():
        while not stop.is_set():
            try:
                places.owner_root("o1").rmdir()
            except OSError:
                continue

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        for number in range(200):
            folder = places.job_folder("o1", f"j{number}")
            assert folder.is_dir()
            folder.rmdir()
    finally:
        stop.set()
        sweeper.join()
