"""A SQLite file that is damaged is noticed, set aside and said so; what it held is kept beside the new one."""

from __future__ import annotations

import os
import shutil

import pytest

from nodetool_jupyter.errors import StoreDamaged
from nodetool_jupyter.stores import sqlite_file
from tests.stores.store_building import set_aside, stored, url_of


def zero_length(path):
    os.truncate(path, 0)


def garbage(path):
    path.write_bytes(os.urandom(50_000))


def truncated(path):
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)


def cut_in_a_page(path):
    os.truncate(path, path.stat().st_size - 1000)


def overwritten_pages(path):
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(4096 * 3))


@pytest.mark.parametrize("damage", [zero_length, garbage, truncated, cut_in_a_page, overwritten_pages])
def test_a_damaged_file_is_set_aside_and_said_so(closed, opened, damage):
    damage(closed)
    spoilt = closed.read_bytes()
    store = opened(url_of(closed))
    [name] = set_aside(closed)
    [sentence] = store.warnings
    assert "[NT-DB1]" in sentence
    assert str(closed.parent / name) in sentence
    assert (closed.parent / name).read_bytes() == spoilt
    assert store.find() == []
    job = stored(store)
    store.close()
    again = opened(url_of(closed))
    assert again.warnings == ()
    assert again.get(job.id) == job


def test_the_journal_of_a_damaged_file_goes_with_it(closed, opened, tmp_path):
    store = opened(url_of(closed))
    stored(store, "in-the-journal")
    copy = tmp_path / "copy" / closed.name
    shutil.copytree(closed.parent, copy.parent)
    assert (copy.parent / (copy.name + "-wal")).stat().st_size > 0
    copy.write_bytes(b"\1" * 8192)
    fresh = opened(url_of(copy))
    assert fresh.find() == []
    assert fresh.get("in-the-journal") is None
    aside = set_aside(copy)
    assert [name for name in aside if name.endswith("-wal")]
    assert len(fresh.warnings) == 1


def test_two_damaged_files_within_one_second_are_both_kept(closed, opened):
    for _ in range(2):
        garbage(closed)
        opened(url_of(closed)).close()
    assert len(set_aside(closed)) == 2


def spoil(path, *, first_page):
    with path.open("r+b") as file:
        file.seek(4096 * first_page)
        file.write(os.urandom(path.stat().st_size - 4096 * first_page))


def test_damage_that_shows_in_use_is_named_and_set_aside_at_the_next_start(closed, opened, monkeypatch):
    monkeypatch.setattr(sqlite_file, "_CHECKED_BYTES", 0)  # as for a file too large to read at each start
    spoil(closed, first_page=20)
    store = opened(url_of(closed))
    assert store.warnings == ()
    with pytest.raises(StoreDamaged, match=r"damaged .* Restart the kernel"):
        store.find()
    store.close()
    again = opened(url_of(closed))
    assert "[NT-DB1]" in again.warnings[0]
    assert again.find() == []


def test_damage_that_shows_at_the_start_is_set_aside_at_once(closed, opened, monkeypatch):
    monkeypatch.setattr(sqlite_file, "_CHECKED_BYTES", 0)
    spoil(closed, first_page=2)
    store = opened(url_of(closed))
    assert "[NT-DB1]" in store.warnings[0]
    assert store.find() == []
