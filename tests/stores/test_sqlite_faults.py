"""A SQLite store whose file is locked, removed, unreachable, or whose disk is full."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest

from nodetool_jupyter import mount_table
from nodetool_jupyter.errors import StorageFull, StoreBusy, StoreError
from nodetool_jupyter.jobs import JobStatus
from nodetool_jupyter.stores import sqlite_file
from nodetool_jupyter.stores.sql import SqlStore
from tests.small_disk import fill
from tests.stores.store_building import COMPLETED, RUNNING, new, prints, set_aside, step, stored, url_of

LOCK = """
    import sqlite3, sys
    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    if sys.argv[2] == "exclusive":
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
    connection.execute("BEGIN IMMEDIATE")
    print("locked", flush=True)
    sys.stdin.readline()
    connection.execute("COMMIT")
    connection.close()
    print("free", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def locker():
    """Locks a database from another process until it is told to let go."""
    processes = []

    def lock(path, kind="immediate"):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(LOCK), path, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "locked\n"

        def let_go():
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "free\n"

        return let_go

    yield lock
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def impatient(monkeypatch):
    """SQLite waits for a lock for a twentieth of a second only."""
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.05)
    from nodetool_jupyter.stores import sqlite

    monkeypatch.setattr(sqlite, "_SETTINGS", ("PRAGMA busy_timeout=50", "PRAGMA synchronous=NORMAL"))


@pytest.mark.usefixtures("impatient")
def test_a_locked_database_takes_the_same_changes_later_and_loses_nothing(sqlite_path, opened, locker):
    store = opened(url_of(sqlite_path))
    job = stored(store)
    let_go = locker(sqlite_path)
    change = step(job, JobStatus.STARTING)
    for _ in range(3):
        with pytest.raises(StoreBusy, match="locked by another process"):
            store.commit([change])
    assert store.get(job.id) == job
    let_go()
    store.commit([change])
    assert store.get(job.id) == change.job
    assert [event.seq for event in store.read(job.id)] == [1, 2]


@pytest.mark.usefixtures("impatient")
def test_a_database_that_somebody_writes_to_can_be_opened_and_read(closed, opened, locker):
    locker(closed)
    assert len(opened(url_of(closed)).find()) == 100


@pytest.mark.usefixtures("impatient")
def test_a_locked_database_is_never_taken_for_a_damaged_one(closed, opened, locker):
    let_go = locker(closed, "exclusive")
    with pytest.raises(StoreBusy, match="locked"):
        opened(url_of(closed))
    assert set_aside(closed) == []
    let_go()
    assert len(opened(url_of(closed)).find()) == 100


def test_a_writer_waits_for_another_one_that_is_soon_done(sqlite_path, opened):
    """Two processes' worth of writers on one file: the busy time-out lets both go on."""
    import threading

    stores = [opened(url_of(sqlite_path)) for _ in range(3)]
    faults = []

    def write(store):
        try:
            for _ in range(40):
                stored(store)
        except StoreError as error:
            faults.append(error)

    writers = [threading.Thread(target=write, args=(store,)) for store in stores]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert faults == []
    assert len(stores[0].find(limit=1000)) == 120


@pytest.mark.parametrize("how", ["removed", "replaced", "folder removed"])
def test_a_file_that_vanishes_in_use_is_noticed_at_the_next_write(sqlite_path, opened, how):
    store = opened(url_of(sqlite_path))
    job = stored(store)
    if how == "folder removed":
        shutil.rmtree(sqlite_path.parent)
    else:
        sqlite_path.unlink()
        if how == "replaced":
            opened(url_of(sqlite_path))
    with pytest.raises(StoreError, match="removed or replaced while it was in use") as refused:
        store.commit([step(job, JobStatus.STARTING)])
    assert str(sqlite_path) in str(refused.value)


@pytest.mark.parametrize("umask", [0, 0o077, 0o022])
def test_every_file_is_private_whatever_the_umask(sqlite_path, opened, umask):
    before = os.umask(umask)
    try:
        stored(opened(url_of(sqlite_path)))
    finally:
        os.umask(before)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in sqlite_path.parent.iterdir()}
    assert {"jobs.sqlite", "jobs.sqlite-wal", "jobs.sqlite-shm"} <= set(found)
    assert set(found.values()) == {0o600}
    assert stat.S_IMODE(sqlite_path.parent.stat().st_mode) == 0o700


def test_a_file_that_others_could_read_is_closed_and_said_so(closed, opened):
    closed.chmod(0o664)
    store = opened(url_of(closed))
    assert stat.S_IMODE(closed.stat().st_mode) == 0o600
    assert "664" in store.warnings[0]


@pytest.mark.parametrize("where", ["file in the way", "proc", "folder"])
def test_a_place_that_can_not_hold_a_database_is_refused_with_a_remedy(tmp_path, where, opened):
    path = tmp_path / "place" / "jobs.sqlite"
    if where == "file in the way":
        (tmp_path / "place").write_text("")
    elif where == "folder":
        path.mkdir(parents=True)
    else:
        path = "/proc/nodetool/jobs.sqlite"
    with pytest.raises(StoreError, match="NODETOOL_DATABASE_URL") as refused:
        opened(url_of(path))
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("kind", ["nfs4", "nfs", "cifs", "fuse.sshfs", "9p", "lustre"])
def test_a_network_file_system_is_refused_with_a_local_path(tmp_path, monkeypatch, opened, kind):
    shared = tmp_path / "shared folder"
    table = tmp_path / "mountinfo"
    point = str(shared).replace(" ", "\\040")
    table.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
        f"40 22 0:50 / {point} rw,relatime - {kind} server:/home rw\n"
    )
    monkeypatch.setattr(mount_table, "MOUNTINFO", table)
    with pytest.raises(StoreError, match="NODETOOL_DATABASE_URL") as refused:
        opened(url_of(shared / "nodetool" / "jobs.sqlite"))
    assert kind in str(refused.value)
    assert "sqlite:////var/tmp/" in str(refused.value)
    assert not (shared / "nodetool" / "jobs.sqlite").exists()
    stored(opened(url_of(tmp_path / "shared folder, but not really" / "jobs.sqlite")))


def test_the_mount_that_covers_the_others_counts(tmp_path, monkeypatch):
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 8:1 / / rw - ext4 /dev/root rw\n"
        "40 22 0:50 / /home rw - nfs server:/home rw\n"
        "43 22 0:53 / /mnt/what\fends\u2028a\x85line rw - vfat /dev/sdc rw\n"
        "41 40 0:51 / /home/ann/local rw master:2 - xfs /dev/sdb rw\n"
        "42 22 0:52 / /home rw - tmpfs tmpfs rw\n"
    )
    monkeypatch.setattr(mount_table, "MOUNTINFO", table)
    assert mount_table.file_system(Path("/home/bob")) == "tmpfs"
    assert mount_table.file_system(Path("/home/ann/local/x")) == "xfs"
    assert mount_table.file_system(Path("/homes")) == "ext4"


def test_on_a_full_disk_ends_are_recorded_and_nothing_is_lost_when_room_comes_back(small_disk, opened):
    path = small_disk / "store" / "jobs.sqlite"
    store = opened(url_of(path))
    running = [stored(store, through=RUNNING) for _ in range(50)]
    fill(small_disk)
    noisy = prints(running[0], *["x" * 10_000] * 200)
    with pytest.raises(StorageFull, match="no room left"):
        store.commit([noisy])
    with pytest.raises(StorageFull):
        store.commit([new("late", name="x" * 400_000)])
    assert store.get(running[0].id) == running[0]
    ends = [step(job, JobStatus.FAILED, ended_at=1.0) for job in running[1:]]
    for end in ends:
        store.commit([end])
    (small_disk / "filler").unlink()
    store.commit([noisy])
    store.commit([new("late", name="x" * 400_000)])
    store.close()
    again = opened(url_of(path))
    assert again.warnings == ()
    assert [again.get(end.job.id) for end in ends] == [end.job for end in ends]
    assert len(again.read(running[0].id)) == noisy.job.last_seq
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_room_set_aside_is_given_up_for_ends_only_and_taken_again(small_disk, opened):
    path = small_disk / "store" / "jobs.sqlite"
    ballast = path.with_name(path.name + ".ballast")
    store = opened(url_of(path))
    assert ballast.stat().st_blocks * 512 >= 512 << 10
    job = stored(store, through=RUNNING)
    fill(small_disk)
    with pytest.raises(StorageFull):
        store.commit([prints(job, "x" * 400_000)])
    assert ballast.exists()
    store.commit([step(job, JobStatus.FAILED, message="x" * 300_000)])
    assert not ballast.exists()
    (small_disk / "filler").unlink()
    store.heartbeat("o1")
    assert ballast.exists()


def test_on_a_full_disk_old_jobs_can_be_removed_and_their_room_is_used_again(small_disk, opened):
    path = small_disk / "store" / "jobs.sqlite"
    store = opened(url_of(path))
    old = []
    for _ in range(20):
        change = prints(stored(store, through=RUNNING), "x" * 15_000)
        store.commit([change])
        store.commit([step(change.job, JobStatus.COMPLETED, ended_at=1.0)])
        old.append(change.job.id)
    kept = stored(store, through=RUNNING)
    fill(small_disk)
    many = [[new(name="x" * 15_000)] for _ in range(200)]
    with pytest.raises(StorageFull, match="nodetool prune"):
        list(map(store.commit, many))
    assert store.delete([*old, kept.id]) == len(old)
    assert store.get(kept.id) == kept
    assert [job_id for job_id in old if store.get(job_id) is not None or store.read(job_id)] == []
    for number in range(30):
        store.commit([new(f"after{number}", name="x" * 15_000)])
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_disk_that_is_full_at_the_start_is_said_so(small_disk, opened):
    fill(small_disk)
    path = small_disk / "jobs.sqlite"
    with pytest.raises(StoreError, match=r"room|space"):
        opened(url_of(path))
    (small_disk / "filler").unlink()
    store = opened(url_of(path))
    assert store.warnings == ()
    stored(store)


def test_when_no_file_can_be_opened_any_more_the_store_says_so_and_goes_on_later(sqlite_path, opened):
    store = opened(url_of(sqlite_path))
    job = stored(store)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
    try:
        while True:
            try:
                taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        other = SqlStore(url_of(sqlite_path))
        with pytest.raises(StoreError):
            other.open()
        store.commit([step(job, JobStatus.STARTING)])
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert store.get(job.id).status is JobStatus.STARTING


KILLED = """
    import sys
    from nodetool_jupyter.stores.sql import SqlStore
    from tests.stores.store_building import new, prints
    store = SqlStore(sys.argv[1])
    store.open()
    change = new("job")
    store.commit([change])
    while True:
        change = prints(change.job, "a", "b")
        store.commit([change])
        sys.stdout.write(f"{change.job.last_seq}\\n")
        sys.stdout.flush()
"""


def test_what_was_committed_survives_the_death_of_its_writer(sqlite_path, opened):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), url_of(sqlite_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=os.path.dirname(os.path.dirname(os.path.dirname(__file__))),
    )
    lines = [process.stdout.readline() for _ in range(50)]
    process.kill()
    lines += process.communicate()[0].split()
    acknowledged = int(lines[-1])
    store = opened(url_of(sqlite_path))
    job = store.get("job")
    assert store.warnings == ()
    assert job.last_seq in {acknowledged, acknowledged + 2}
    found = store.read("job")
    while page := store.read("job", after=found[-1].seq):
        found += page
    assert [event.seq for event in found] == list(range(1, job.last_seq + 1))


def test_jobs_that_completed_stay_readable_while_somebody_else_writes(sqlite_path, opened, locker):
    store = opened(url_of(sqlite_path))
    job = stored(store, through=COMPLETED)
    locker(sqlite_path)
    assert store.get(job.id) == job
    assert len(store.read(job.id)) == 4
