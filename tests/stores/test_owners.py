"""Dead managers are told from living ones, and their jobs end exactly once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import msgspec
import pytest

from nodetool_jupyter.events import JobUpdate, Stream
from nodetool_jupyter.jobs import JobStatus, Reason
from nodetool_jupyter.stores import owners
from nodetool_jupyter.stores.owners import DeathWatch, alive, claim_lost, this_process
from tests.stores.store_building import COMPLETED, RUNNING, new, prints, stored

ENTER_AND_WAIT = """
    import sys
    import msgspec
    from nodetool_jupyter.stores.owners import this_process
    sys.stdout.write(msgspec.json.encode(this_process("ann")).decode() + "\\n")
    sys.stdout.flush()
    sys.stdin.read()
"""
CLAIM = """
    import sys
    import msgspec
    from nodetool_jupyter.stores.base import Owner
    from nodetool_jupyter.stores.owners import claim_lost
    from nodetool_jupyter.stores.sql import SqlStore
    store = SqlStore(sys.argv[1])
    store.open()
    dead = msgspec.json.decode(sys.argv[2], type=Owner)
    print("ready", flush=True)
    sys.stdin.readline()
    print(*[job.id for job in claim_lost(store, dead)])
    store.close()
"""


def python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def other():
    """A living manager in another process, and that process."""
    process = python(ENTER_AND_WAIT)
    owner = msgspec.json.decode(process.stdout.readline(), type=owners.Owner)
    yield owner, process
    process.kill()
    process.communicate()


def test_every_manager_of_a_process_has_an_id_of_its_own():
    assert this_process("ann").id != this_process("ann").id


def test_this_process_is_alive():
    assert alive(this_process("ann"))


def test_a_killed_process_is_dead_even_before_it_is_reaped(other):
    owner, process = other
    assert alive(owner)
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not alive(owner)


@pytest.mark.parametrize("field", ["start_ticks", "boot_id"])
def test_a_number_used_again_is_not_the_same_process(field):
    me = this_process("ann")
    changed = "another boot" if field == "boot_id" else me.start_ticks - 1
    assert not alive(msgspec.structs.replace(me, **{field: changed}))


def test_a_process_on_another_host_can_not_be_declared_dead_by_looking():
    assert alive(msgspec.structs.replace(this_process("ann"), host="elsewhere", pid=999_999_999))


def test_a_watch_finds_the_dead_of_its_own_user_only(other):
    owner, process = other
    me = this_process("ann")
    theirs = msgspec.structs.replace(owner, id="other", user="bob")
    watch = DeathWatch(me)
    assert watch.dead([me, owner, theirs]) == []
    process.kill()
    process.wait()
    assert watch.dead([me, owner, theirs]) == [owner]


def test_an_owner_elsewhere_is_dead_when_its_beat_stands_still_while_we_look():
    me = this_process("ann")
    far = msgspec.structs.replace(me, id="far", host="elsewhere")
    now = [1000.0]
    watch = DeathWatch(me, silent_seconds=100, clock=lambda: now[0])
    assert watch.dead([far]) == []
    now[0] += 99
    assert watch.dead([far]) == []
    far = msgspec.structs.replace(far, beat=1)
    now[0] += 99
    assert watch.dead([far]) == []
    now[0] += 99
    assert watch.dead([far]) == []
    now[0] += 1
    assert watch.dead([far]) == [far]


def test_the_open_jobs_of_a_dead_manager_become_lost_and_it_is_forgotten(store):
    dead = msgspec.structs.replace(this_process("ann"), id="o1", pid=999_999_999)
    store.register(dead)
    open_ = [stored(store), stored(store, through=RUNNING), stored(store, through=(*RUNNING, JobStatus.CANCELLING))]
    done, foreign = stored(store, through=COMPLETED), stored(store, owner="o2")
    claimed = claim_lost(store, dead)
    assert {job.id for job in claimed} == {job.id for job in open_}
    for job in open_:
        now = store.get(job.id)
        last = store.read(job.id)[-1]
        assert (now.status, now.reason, now.version) == (JobStatus.FAILED, Reason.LOST, job.version + 1)
        assert now.message.startswith("The kernel that ran this job died")
        assert (last.status, last.reason, last.seq) == ("failed", "lost", now.last_seq)
    assert store.get(done.id) == done
    assert store.get(foreign.id) == foreign
    assert store.owners() == []
    assert claim_lost(store, dead) == []


def test_a_job_that_changes_while_it_is_claimed_is_claimed_all_the_same(store):
    job = stored(store, through=RUNNING)
    others = [stored(store) for _ in range(3)]
    real, raced = store.commit, []

    def commit(changes):
        if not raced:
            raced.append(True)
            real([prints(job, "a last word")])
        real(changes)

    store.commit = commit
    claimed = claim_lost(store, msgspec.structs.replace(this_process("ann"), id="o1"))
    assert sorted(found.id for found in claimed) == sorted([job.id, *(other.id for other in others)])
    assert [type(event) for event in store.read(job.id)[-2:]] == [Stream, JobUpdate]


def test_four_managers_that_claim_at_once_end_each_job_exactly_once(url, opened):
    store = opened(url)
    dead = msgspec.structs.replace(this_process("ann"), id="o1", pid=999_999_999)
    store.register(dead)
    ids = [f"job{n:03}" for n in range(120)]
    store.commit([new(job_id) for job_id in ids])
    claimers = [python(CLAIM, url, msgspec.json.encode(dead).decode()) for _ in range(4)]
    for claimer in claimers:
        assert claimer.stdout.readline() == "ready\n"
    for claimer in claimers:
        claimer.stdin.write("go\n")
        claimer.stdin.flush()
    claimed = [job_id for claimer in claimers for job_id in claimer.communicate()[0].split()]
    assert [claimer.returncode for claimer in claimers] == [0] * 4
    assert sorted(claimed) == ids
    for job_id in ids:
        assert [event.status for event in store.read(job_id)] == ["queued", "failed"]
    assert store.owners() == []
