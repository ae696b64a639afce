"""What dead managers left is removed; what a living one has is not touched."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import tempfile
import time
from multiprocessing import shared_memory
from pathlib import Path

import msgspec
import pytest

from nodetool_jupyter import housekeeping, places
from nodetool_jupyter.housekeeping import announce, prune, retire, sweep
from nodetool_jupyter.stores.memory import MemoryStore
from nodetool_jupyter.stores.owners import this_process
from tests.components import require_right
from tests.stores.store_building import COMPLETED, stored


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def store():
    store = MemoryStore()
    store.open()
    return store


def dead_owner():
    return msgspec.structs.replace(this_process("ann"), start_ticks=1)


def segment(owner_id):
    """A real segment of shared memory with the name that the rule gives."""
    made = shared_memory.SharedMemory(places.resource_name(owner_id, "job"), create=True, size=4096)
    made.close()
    return housekeeping.SHARED_MEMORY / made.name


def test_everything_of_a_dead_manager_goes_and_is_listed(store):
    dead = dead_owner()
    announce(dead)
    folder = places.job_folder(dead.id, "job")
    (folder / "file").write_text("x")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "s"))
    memory = segment(dead.id)
    found = sweep(store)
    assert found.folders == (str(folder.parent),)
    assert found.shared_memory == (str(memory),)
    assert found.left == ()
    assert not folder.parent.exists()
    assert not memory.exists()


def test_nothing_of_a_living_manager_is_touched(store):
    living = this_process("ann")
    announce(living)
    folder = places.job_folder(living.id, "job")
    memory = segment(living.id)
    try:
        found = sweep(store)
        assert (found.folders, found.shared_memory, found.left) == ((), (), ())
        assert folder.is_dir()
        assert memory.exists()
    finally:
        memory.unlink()


def test_a_folder_is_judged_by_the_store_when_it_says_nothing_itself(store):
    living, dead = this_process("ann"), dead_owner()
    store.register(living)
    store.register(dead)
    kept, gone = places.job_folder(living.id, "job"), places.job_folder(dead.id, "job")
    assert sweep(store).folders == (str(gone.parent),)
    assert kept.is_dir()


@pytest.mark.parametrize("text", ["", "{}", "[1]", "\0" * 100, '{"id": "x"}', "link", "fifo", "another's"])
def test_a_folder_of_nobody_known_is_left_and_said_so(store, tmp_path, text):
    folder = places.job_folder("unknown", "job")
    file = folder.parent / places.OWNER_FILE
    valid = msgspec.json.encode(msgspec.structs.replace(dead_owner(), id="unknown"))
    if text == "link":
        (tmp_path / "elsewhere").write_bytes(valid)
        file.symlink_to(tmp_path / "elsewhere")
    elif text == "fifo":
        os.mkfifo(file)
    elif text == "another's":
        file.write_bytes(msgspec.json.encode(dead_owner()))
    else:
        file.write_text(text)
    found = sweep(store)
    assert found.folders == ()
    assert str(folder.parent) in found.left[0]
    assert folder.is_dir()


def test_an_empty_folder_of_nobody_is_removed(store):
    folder = places.owner_root("unknown")
    assert sweep(store).folders == (str(folder),)


def test_links_are_removed_and_never_followed(store, tmp_path_factory):
    treasure = tmp_path_factory.mktemp("treasure")
    (treasure / "gold").write_text("x")
    dead = dead_owner()
    announce(dead)
    folder = places.job_folder(dead.id, "job")
    (folder / "out").symlink_to(treasure)
    (folder.parent / "out").symlink_to(treasure)
    (places.job_root() / "link").symlink_to(treasure)
    (treasure / places.OWNER_FILE).write_bytes(msgspec.json.encode(msgspec.structs.replace(dead, id="link")))
    found = sweep(store)
    assert not folder.exists()
    assert (treasure / "gold").read_text() == "x"
    assert "link" in " ".join(found.left)


def test_a_tree_deeper_than_python_can_recurse_is_removed(store):
    dead = dead_owner()
    announce(dead)
    folder = places.job_folder(dead.id, "job")
    handle = os.open(folder, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deeper", dir_fd=handle)
        handle, above = os.open("deeper", os.O_RDONLY, dir_fd=handle), handle
        os.close(above)
    os.close(handle)
    assert sweep(store).folders == (str(folder.parent),)
    assert not folder.exists()


def test_a_mount_inside_is_left_alone(store, tmp_path_factory):
    treasure = tmp_path_factory.mktemp("treasure")
    (treasure / "gold").write_text("x")
    dead = dead_owner()
    announce(dead)
    inside = places.job_folder(dead.id, "job") / "mount point"
    inside.mkdir()
    bound = subprocess.run(["mount", "--bind", treasure, inside], capture_output=True, check=False).returncode == 0
    require_right("The right to mount", bound, "run the tests as root")
    try:
        found = sweep(store)
        assert found.folders == ()
        assert "mounted" in found.left[0]
        assert (treasure / "gold").read_text() == "x"
    finally:
        subprocess.run(["umount", inside], check=True)
    assert sweep(store).left == ()


def test_two_sweeps_at_once_are_one(store):
    import threading

    for _ in range(30):
        dead = dead_owner()
        announce(dead)
        (places.job_folder(dead.id, "job") / "file").write_text("x")
    results = []
    sweepers = [threading.Thread(target=lambda: results.append(sweep(store))) for _ in range(3)]
    for sweeper in sweepers:
        sweeper.start()
    for sweeper in sweepers:
        sweeper.join()
    assert len(results) == 3
    assert os.listdir(places.job_root()) == []


def test_a_stale_cgroup_is_removed(store):
    from nodetool_jupyter.worker import cgroups

    [hierarchy, *_] = require_right("A control group", cgroups.find(), "run as root, or delegate one")
    name = places.resource_name(secrets.token_hex(4), "job")
    stale = Path(hierarchy.folder) / f"{name}-{os.stat('/proc/self/ns/pid').st_ino}-{os.getpid()}-1"
    stale.mkdir()
    try:
        assert str(stale) in sweep(store).cgroups
        assert not stale.exists()
    finally:
        if stale.exists():
            stale.rmdir()


def test_a_manager_that_ends_takes_its_folder_along():
    me = this_process("ann")
    announce(me)
    announce(me)
    folder = places.job_folder(me.id, "job")
    assert retire(me.id) == []
    assert not folder.parent.exists()
    assert retire(me.id) == []


def test_the_owner_file_is_private():
    me = this_process("ann")
    before = os.umask(0)
    try:
        announce(me)
    finally:
        os.umask(before)
    assert (places.owner_root(me.id) / places.OWNER_FILE).stat().st_mode & 0o777 == 0o600


def test_old_final_jobs_of_this_user_go_with_their_events_and_files(store, tmp_path):
    now = time.time()
    old = stored(store, created_at=now - 1000, through=COMPLETED)
    young = stored(store, created_at=now - 10, through=COMPLETED)
    running = stored(store, created_at=now - 2000)
    foreign = stored(store, created_at=now - 1000, user="bob", through=COMPLETED)
    assets = tmp_path / "assets"
    for job in (old, young):
        (assets / job.id).mkdir(parents=True)
    found = prune(store, 500, user="ann", assets=assets)
    assert found.jobs == (old.id,)
    assert store.get(old.id) is None
    assert store.read(old.id) == []
    assert {job.id for job in store.find()} == {young.id, running.id, foreign.id}
    assert os.listdir(assets) == [young.id]


def test_a_job_that_ended_just_now_stays_however_old_it_is(store):
    job = stored(store, created_at=1.0, through=COMPLETED[:-1])
    from nodetool_jupyter.jobs import JobStatus
    from tests.stores.store_building import step

    store.commit([step(job, JobStatus.COMPLETED, ended_at=time.time())])
    assert prune(store, 500, user="ann").jobs == ()


def test_thousands_of_old_jobs_are_pruned(store):
    for number in range(1200):
        stored(store, f"j{number}", created_at=1.0 + number, through=COMPLETED)
    assert len(prune(store, 500, user="ann").jobs) == 1200
    assert store.find() == []
