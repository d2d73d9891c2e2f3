"""Blobs appear whole or not at all, whoever is killed, whatever the disk loses."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec_bundle.digest import sha256_hex
from edgec_bundle.errors import (
    BlobBusyError,
    BlobMissingError,
    DigestMismatchError,
    NoSpaceError,
    StoreError,
)
from edgec_bundle.store import (
    BytesReader,
    FileReader,
    FolderBlobStore,
    FolderPartialBlob,
    missing_blocks,
    sha256_of,
)

BLOCK = 16
DATA = bytes(range(100)) * 1  # 6 whole blocks of 16, and one of 4
DIGEST = sha256_hex(DATA)


@pytest.fixture
def store(tmp_path: Path) -> FolderBlobStore:
    return FolderBlobStore(tmp_path / "blobs")


def begin(store: FolderBlobStore) -> FolderPartialBlob:
    return store.begin(DIGEST, len(DATA), BLOCK)


def block(index: int) -> bytes:
    return DATA[index * BLOCK : (index + 1) * BLOCK]


def files_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_what_is_put_can_be_read_by_its_digest(store: FolderBlobStore) -> None:
    digest = store.put(b"hello")
    store.put(b"hello")

    assert digest == sha256_hex(b"hello")
    assert store.has(digest)
    assert store.read(digest) == b"hello"
    assert list(store.digests()) == [digest]
    assert files_in(store.root) == [f"{digest[:2]}/{digest}"]


def test_a_reader_reads_any_part_and_survives_deletion(store: FolderBlobStore) -> None:
    digest = store.put(DATA)

    with store.open(digest) as reader:
        store.delete(digest)
        store.delete(digest)

        assert not store.has(digest)
        assert reader.size == 100
        assert reader.pread(10, 95) == DATA[95:]
        assert reader.pread(3, 7) == DATA[7:10]
        assert reader.pread(3, 100) == b""
        assert reader.read() == DATA
        assert sha256_of(reader) == sha256_of(BytesReader(DATA)) == DIGEST


def test_a_blob_that_is_not_there_is_missing(store: FolderBlobStore) -> None:
    with pytest.raises(BlobMissingError) as caught:
        store.open(DIGEST)

    assert caught.value.digest == DIGEST
    with pytest.raises(BlobMissingError):
        store.read(DIGEST)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", DIGEST.upper(), DIGEST + "\n", None])
def test_what_is_no_digest_never_becomes_a_path(store: FolderBlobStore, digest: str) -> None:
    for act in (store.has, store.open, store.read, store.delete, store.discard_partial):
        with pytest.raises(StoreError, match="sha256"):
            act(digest)
    with pytest.raises(StoreError, match="sha256"):
        store.begin(digest, 1)
    assert files_in(store.root) == []


def test_reading_a_rotten_blob_is_refused(store: FolderBlobStore) -> None:
    digest = store.put(b"hello")
    (store.root / digest[:2] / digest).write_bytes(b"hellp")

    with pytest.raises(DigestMismatchError) as caught:
        store.read(digest)

    assert (caught.value.expected, caught.value.found) == (digest, sha256_hex(b"hellp"))


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(OSError, match=r"regular file|directory"):
            FileReader(path)


def test_blocks_in_any_order_become_a_blob(store: FolderBlobStore) -> None:
    partial = begin(store)
    assert partial.blocks == 7
    assert partial.missing() == (0, 1, 2, 3, 4, 5, 6)

    for index in (6, 0, 3, 3, 1, 5, 2):
        partial.write_block(index, block(index))

    assert partial.missing() == (4,)
    assert partial.missing_bitmap() == b"\x10"
    assert partial.missing_bitmap(3) == b"\x02"
    assert partial.missing_bitmap(7) == b""
    assert partial.has_block(6)
    assert not partial.has_block(4)
    assert not partial.has_block(7)
    assert not store.has(DIGEST)
    with pytest.raises(StoreError, match="missing"):
        partial.commit()
    partial.write_block(4, block(4))
    partial.commit()
    assert store.read(DIGEST) == DATA
    assert files_in(store.root) == [f"{DIGEST[:2]}/{DIGEST}"]


def test_a_bitmap_names_the_missing_blocks_lowest_bit_first(store: FolderBlobStore) -> None:
    partial = store.begin(DIGEST, 100, 5)
    for index in range(20):
        if index not in (2, 9, 15, 19):
            partial.write_block(index, DATA[index * 5 : index * 5 + 5])

    bitmap = partial.missing_bitmap(2)

    assert bitmap == bytes([0b10000001, 0b00100000, 0b00000010])
    assert missing_blocks(2, bitmap, 20) == partial.missing() == (2, 9, 15, 19)
    assert missing_blocks(2, b"\xff" * 100, 20) == tuple(range(2, 20))
    assert missing_blocks(-3, b"\xff", 20) == (0, 1, 2, 3, 4)


@given(
    st.lists(st.integers(0, 6) | st.just("begin again") | st.just("lose the process"), max_size=30)
)
def test_the_block_map_always_tells_the_truth(
    tmp_path_factory: pytest.TempPathFactory, moves: list[int | str]
) -> None:
    store = FolderBlobStore(tmp_path_factory.mktemp("s"))
    partial = begin(store)
    there: set[int] = set()

    for move in moves:
        if isinstance(move, int):
            partial.write_block(move, block(move))
            there.add(move)
        elif move == "begin again":
            partial = begin(store)
        else:
            partial.close()
            store = FolderBlobStore(store.root)
            partial = begin(store)
        assert set(partial.missing()) == set(range(7)) - there
        assert missing_blocks(0, partial.missing_bitmap(), 7) == partial.missing()


def test_a_block_whose_bytes_the_disk_lost_is_missing_again(store: FolderBlobStore) -> None:
    partial = begin(store)
    for index in (1, 2, 6):
        partial.write_block(index, block(index))
    partial.close()

    part = store.root / "partial" / f"{DIGEST}.part"
    held = bytearray(part.read_bytes())
    held[2 * BLOCK : 3 * BLOCK] = bytes(BLOCK)  # what a power cut leaves of unsynced bytes
    part.write_bytes(held)

    assert begin(store).missing() == (0, 2, 3, 4, 5)


@pytest.mark.parametrize("ending", ["part", "map"])
@pytest.mark.parametrize("damage", [b"", b"x", b"\xff" * 300])
def test_a_damaged_partial_starts_over_or_keeps_what_is_true(
    store: FolderBlobStore, ending: str, damage: bytes
) -> None:
    partial = begin(store)
    partial.write_block(1, block(1))
    partial.close()
    (store.root / "partial" / f"{DIGEST}.{ending}").write_bytes(damage)

    partial = begin(store)

    for index in partial.missing():
        partial.write_block(index, block(index))
    partial.commit()
    assert store.read(DIGEST) == DATA


def test_another_size_or_block_size_starts_over(store: FolderBlobStore) -> None:
    begin(store).write_block(0, block(0))

    assert store.begin(DIGEST, len(DATA), 8).missing() == tuple(range(13))
    assert store.begin(DIGEST, len(DATA) - 1, 8).missing() == tuple(range(13))


def test_wrong_bytes_are_discarded_at_commit(store: FolderBlobStore) -> None:
    partial = begin(store)
    for index in range(7):
        partial.write_block(index, block(index)[::-1])

    with pytest.raises(DigestMismatchError) as caught:
        partial.commit()

    assert caught.value.expected == DIGEST
    assert files_in(store.root) == []
    assert begin(store).missing() == (0, 1, 2, 3, 4, 5, 6)


def test_what_the_disk_changed_after_writing_is_found_at_commit(store: FolderBlobStore) -> None:
    partial = begin(store)
    partial.append(DATA)
    with open(store.root / "partial" / f"{DIGEST}.part", "r+b") as stream:
        stream.seek(50)
        stream.write(b"!")

    with pytest.raises(DigestMismatchError):
        partial.commit()

    assert files_in(store.root) == []


@pytest.mark.parametrize(
    ("index", "data"),
    [(-1, b"a" * 16), (7, b"a" * 16), (0, b""), (0, b"a" * 15), (0, b"a" * 17), (6, b"a" * 16)],
)
def test_a_block_that_does_not_fit_is_refused(
    store: FolderBlobStore, index: int, data: bytes
) -> None:
    partial = begin(store)

    with pytest.raises(StoreError, match="expected"):
        partial.write_block(index, data)

    assert partial.missing() == (0, 1, 2, 3, 4, 5, 6)


@given(st.lists(st.integers(0, 40), max_size=20))
def test_appending_in_any_pieces_writes_the_blob(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    store = FolderBlobStore(tmp_path_factory.mktemp("s"))
    partial = begin(store)
    at = 0

    for size in [*sizes, 100]:
        partial.append(DATA[at : at + size])
        at = min(100, at + size)

    partial.commit()
    assert store.read(DIGEST) == DATA


def test_appending_starts_over_with_each_begin_and_never_beyond_the_end(
    store: FolderBlobStore,
) -> None:
    begin(store).append(bytes(90))
    partial = begin(store)
    assert partial.missing() == (5, 6)

    partial.append(DATA)

    with pytest.raises(StoreError, match="expected 100 bytes"):
        partial.append(b"x")
    partial.commit()
    assert store.read(DIGEST) == DATA


def test_an_empty_blob_is_a_blob(store: FolderBlobStore) -> None:
    digest = sha256_hex(b"")

    partial = store.begin(digest, 0)
    assert partial.missing() == ()
    assert partial.missing_bitmap() == b""
    partial.commit()

    assert store.read(digest) == b""


def test_discarding_forgets_everything(store: FolderBlobStore) -> None:
    partial = begin(store)
    partial.write_block(0, block(0))
    assert store.partials() == (DIGEST,)

    partial.discard()

    assert store.partials() == ()
    assert files_in(store.root) == []
    begin(store).write_block(0, block(0))
    store.discard_partial(DIGEST)
    store.discard_partial(DIGEST)
    assert files_in(store.root) == []


def test_a_writer_that_was_closed_refuses_to_write(store: FolderBlobStore) -> None:
    earlier = begin(store)
    later = begin(store)

    for act in (lambda: earlier.write_block(0, block(0)), earlier.commit, earlier.discard):
        with pytest.raises(StoreError, match="closed"):
            act()
    later.write_block(0, block(0))


def test_two_writers_of_one_blob_exclude_each_other(store: FolderBlobStore) -> None:
    partial = begin(store)
    other = FolderBlobStore(store.root)

    with pytest.raises(BlobBusyError):
        begin(other)
    with pytest.raises(BlobBusyError):
        other.discard_partial(DIGEST)

    partial.write_block(0, block(0))
    partial.close()
    assert begin(other).has_block(0)


def test_room_is_reserved_before_a_byte_is_sent(store: FolderBlobStore) -> None:
    partial = store.begin(DIGEST, 1 << 20)

    assert (store.root / "partial" / f"{DIGEST}.part").stat().st_blocks * 512 >= 1 << 20
    partial.discard()


def test_a_blob_without_room_is_refused_and_leaves_nothing(store: FolderBlobStore) -> None:
    with pytest.raises(NoSpaceError) as caught:
        store.begin(DIGEST, 1 << 50, 1 << 31)

    assert caught.value.wanted_bytes == 1 << 50
    assert caught.value.free_bytes < 1 << 50
    assert files_in(store.root) == []


def test_some_room_is_left_to_others(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    store = FolderBlobStore(tmp_path / "blobs", keep_free_bytes=free - 1000)

    with pytest.raises(NoSpaceError):
        store.begin(DIGEST, 100 << 20, 1 << 20)

    assert files_in(store.root) == []


@pytest.mark.parametrize(
    ("size", "block_bytes"),
    [(-1, 16), (1, 0), (1, -5), ((1 << 20) + 1, 1), (1 << 62, 1 << 17), (1 << 52, 1 << 32)],
)
def test_absurd_sizes_are_refused(store: FolderBlobStore, size: int, block_bytes: int) -> None:
    with pytest.raises(StoreError):
        store.begin(DIGEST, size, block_bytes)

    assert files_in(store.root) == []


def test_an_unwritable_folder_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StoreError):
        FolderBlobStore(tmp_path / "file" / "blobs")


WRITER = """
import sys
from pathlib import Path
from edgec_bundle.digest import sha256_hex
from edgec_bundle.store import FolderBlobStore

store = FolderBlobStore(Path(sys.argv[1]))
data = bytes(i * 7 % 251 for i in range(64 * 1024 + 100))
digest = sha256_hex(data)
print("ready", flush=True)
while True:
    partial = store.begin(digest, len(data), 1024)
    for index in partial.missing():
        partial.write_block(index, data[index * 1024 : (index + 1) * 1024])
    partial.commit()
    store.delete(digest)
    store.put(data)
    store.delete(digest)
"""


def test_a_kill_at_any_instant_loses_nothing_that_was_claimed(tmp_path: Path) -> None:
    data = bytes(i * 7 % 251 for i in range(64 * 1024 + 100))
    digest = sha256_hex(data)
    chance = random.Random(20)
    resumed = 0
    for number in range(1000):
        if number >= 20 and resumed > 0:  # a busy machine lets it write rarely, but it does
            break
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE
        )
        with writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0, 0.02))
            os.kill(writer.pid, signal.SIGKILL)

        store = FolderBlobStore(tmp_path)
        if store.has(digest):
            assert store.read(digest) == data
            store.delete(digest)
        partial = store.begin(digest, len(data), 1024)
        part = (tmp_path / "partial" / f"{digest}.part").read_bytes()
        for index in range(partial.blocks):
            if partial.has_block(index):
                resumed += 1
                at = slice(index * 1024, (index + 1) * 1024)
                assert part[at] == data[at]
        partial.close()
        assert not [path for path in files_in(tmp_path) if path.endswith(".put")]
    assert resumed > 0

    partial = store.begin(digest, len(data), 1024)
    for index in partial.missing():
        partial.write_block(index, data[index * 1024 : (index + 1) * 1024])
    partial.commit()
    assert store.read(digest) == data


SHARER = """
import random, sys
from pathlib import Path
from edgec_bundle.store import FolderBlobStore

store = FolderBlobStore(Path(sys.argv[1]))
blobs = [bytes([number]) * 5000 for number in range(40)]
random.Random(sys.argv[2]).shuffle(blobs)
for data in blobs:
    assert store.read(store.put(data)) == data
"""


def test_several_processes_share_a_folder(tmp_path: Path) -> None:
    sharers = [
        subprocess.Popen([sys.executable, "-c", SHARER, str(tmp_path), str(seed)])
        for seed in range(3)
    ]

    assert [sharer.wait(240) for sharer in sharers] == [0, 0, 0]
    store = FolderBlobStore(tmp_path)
    assert len([store.read(digest) for digest in store.digests()]) == 40
    assert len(files_in(tmp_path)) == 40
