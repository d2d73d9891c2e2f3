"""The cache's folder: what is put is got, whatever else happens to the files."""

import os
import threading
from pathlib import Path

import pytest

from edgec_compiler.cache import Entry, Store, open_store
from edgec_compiler.errors import UsageError

ONE, TWO, THREE = ("11" * 32, "22" * 32, "33" * 32)
ENTRY = Entry({"accuracy": 0.5, "names": ["a", "b"]}, {"model": b"\x00weights", "empty": b""})


def test_an_entry_comes_back_as_it_was_put(tmp_path: Path) -> None:
    store = Store(tmp_path / "new")

    store.put(ONE, ENTRY)

    assert store.get(ONE) == ENTRY
    assert store.get(TWO) is None


def _file(store: Store) -> Path:
    return next(store.root.glob("11/11*"))


@pytest.mark.parametrize("at", [0, 7, 8, 39, 40, 43, 44, 50, -9, -1])
def test_an_entry_with_any_byte_changed_is_absent_and_can_be_made_anew(
    tmp_path: Path, at: int
) -> None:
    store = Store(tmp_path)
    store.put(ONE, ENTRY)
    payload = bytearray(_file(store).read_bytes())
    payload[at] ^= 1
    _file(store).write_bytes(payload)

    assert store.get(ONE) is None

    assert not list(store.root.glob("11/*"))
    store.put(ONE, ENTRY)
    assert store.get(ONE) == ENTRY


@pytest.mark.parametrize("length", [0, 8, 43, 44, 60])
def test_a_cut_entry_is_absent(tmp_path: Path, length: int) -> None:
    store = Store(tmp_path)
    store.put(ONE, ENTRY)
    os.truncate(_file(store), length)

    assert store.get(ONE) is None


def test_an_entry_is_not_believed_under_another_key(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(ONE, ENTRY)
    store.put(TWO, Entry({}, {}))
    _file(store).replace(next(store.root.glob("22/22*")))

    assert store.get(TWO) is None


def test_what_is_no_regular_file_is_absent(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(ONE, ENTRY)
    real = _file(store).rename(tmp_path / "elsewhere")
    (tmp_path / "11" / ONE).symlink_to(real)
    (tmp_path / "22").mkdir()
    os.mkfifo(tmp_path / "22" / TWO)
    (tmp_path / "33" / THREE).mkdir(parents=True)

    assert [store.get(key) for key in (ONE, TWO, THREE)] == [None, None, None]

    store.put(THREE, ENTRY)  # cannot replace a folder: it is left alone, and nothing fails


def test_the_least_recently_used_entries_go_first(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_bytes=2500)
    big = Entry({}, {"x": bytes(1000)})
    for age, key in ((300, ONE), (200, TWO)):
        store.put(key, big)
        file = tmp_path / key[:2] / key
        os.utime(file, (file.stat().st_atime, file.stat().st_mtime - age))
    assert store.get(ONE) is not None  # used just now

    store.put(THREE, big)

    assert store.get(TWO) is None
    assert store.get(ONE) is not None
    assert store.get(THREE) is not None


def test_an_entry_larger_than_the_limit_is_not_kept(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_bytes=100)

    store.put(ONE, Entry({}, {"x": bytes(1000)}))

    assert not list(tmp_path.rglob("*"))


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = Store(tmp_path / "file" / "cache")

    store.put(ONE, ENTRY)

    assert store.get(ONE) is None


def test_writers_and_readers_at_once_see_whole_entries_only(tmp_path: Path) -> None:
    store = Store(tmp_path, limit_bytes=20_000)
    entries = {
        key: Entry({"key": key}, {"x": bytes([number]) * 5000})
        for number, key in enumerate((ONE, TWO, THREE))
    }
    wrong: list[str] = []

    def use(key: str) -> None:
        for _ in range(60):
            store.put(key, entries[key])
            for other, entry in entries.items():
                if store.get(other) not in (None, entry):
                    wrong.append(other)

    threads = [threading.Thread(target=use, args=(key,)) for key in entries for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_cache_that_is_a_file_or_a_limit_that_is_no_number_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="expected a folder"):
        open_store(str(tmp_path / "file"))
    monkeypatch.setenv("EDGEC_CACHE_BYTES", "much")

    with pytest.raises(UsageError, match="number of bytes"):
        open_store(str(tmp_path))
