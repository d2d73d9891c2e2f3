"""Patches made ahead: which, in what order, at what cost; and what becomes of them after kills."""

import multiprocessing
import random
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from edgec_bundle.digest import sha256_hex
from edgec_fleet import audit, blobs
from edgec_fleet.db.schema import Device, Part, Patch, Release, VariantFile, utcnow
from edgec_fleet.gateway import encoder
from edgec_fleet.gateway import patches as making
from edgec_fleet.gateway.patches import PatchMaker
from edgec_fleet.registry import audience, patches, publish
from edgec_fleet.registry.audience import Audience, needs
from edgec_fleet.rollout import control
from edgec_fleet.server import Server

OPERATOR = audit.Actor("olga")
EVERY = ("bsdiff4", "tensor", "tensor-planes", "zstd")


class Fleet:
    """Published releases, and devices that run one of them."""

    def __init__(self, server: Server, bundles: Any) -> None:
        self.server = server
        self._bundles = bundles
        self._devices = 0

    def publish(self, version: str, number: int, *profiles: str) -> None:
        seed = b"".join(bytes.fromhex(sha256_hex(bytes([i]))) for i in range(200))
        paths = [
            self._bundles.make(version, number, profile, "digits", seed + bytes([number]))
            for profile in profiles or ("rpi4",)
        ]
        taken = publish.take(self.server, paths)
        with self.server.db.write() as session:
            publish.publish(self.server, session, "default", taken, None, OPERATOR)

    def model(self, version: str, profile: str = "rpi4") -> str:
        with self.server.db.read() as session:
            release = session.scalars(select(Release).where(Release.version == version)).one()
            variant = next(one for one in release.variants if one.profile == profile)
            return next(file.sha256 for file in variant.files if file.role == "model")

    def add(self, count: int, runs: str, formats: Any = ("bsdiff4",), **facts: Any) -> None:
        """Add devices that report to run the model of release `runs`."""
        memory_bytes = facts.pop("memory_bytes", None)
        profile = facts.get("profiles", ["rpi4"])[0]
        active = {"files": {"model": self.model(runs, profile)}, "manifest": "ab" * 32}
        values: dict[str, Any] = {
            "tenant": "default",
            "profiles": ["rpi4"],
            "hello": {"delta_formats": list(formats), "memory_bytes": memory_bytes},
            "models": {"digits": {"active": active}},
        }
        with self.server.db.write() as session:
            for _ in range(count):
                self._devices += 1
                session.add(Device(id=f"dev-{self._devices}", **{**values, **facts}))

    def queued(self) -> list[tuple[str, str, int, bool]]:
        """Return (base, format, audience, asked) in the order in which they are made."""
        with self.server.db.read() as session:
            rows = session.scalars(
                select(Patch).order_by(
                    Patch.asked.desc(), Patch.audience.desc(), Patch.created_at, Patch.format
                )
            )
            return [(row.base_sha256, row.format, row.audience, row.asked) for row in rows]

    def states(self) -> dict[str, str]:
        with self.server.db.read() as session:
            rows = session.scalars(select(Patch))
            return {row.base_sha256: row.state for row in rows}

    def roll_out(self, version: str) -> None:
        with self.server.db.write() as session:
            order = {"model": "digits", "version": version, "strategy": "all"}
            control.create(session, "default", order, OPERATOR)

    def make_all(self, maker: PatchMaker, timeout_s: float = 240) -> None:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            maker.step()
            if not set(self.states().values()) & {"queued", "making"}:
                return
            time.sleep(0.02)
        pytest.fail(f"patches are {self.states()}")


@pytest.fixture
def fleet(server: Server, bundles: Any) -> Fleet:
    return Fleet(server, bundles)


@pytest.fixture
def maker(server: Server) -> Iterator[PatchMaker]:
    made = PatchMaker(server, "gateway-1")
    yield made
    made.close()


def test_a_new_release_has_patches_made_from_what_devices_run_the_largest_audience_first(
    fleet: Fleet,
) -> None:
    for number in (1, 2, 3):
        fleet.publish(f"1.{number}.0", number)
    assert audience.step(fleet.server.db) == 3
    assert fleet.queued() == []  # nobody runs anything
    fleet.add(2, "1.1.0")
    fleet.add(5, "1.2.0", formats=("zstd", "bsdiff4", "from-the-future"))
    fleet.add(1, "1.3.0", formats=())  # takes full files only
    fleet.add(9, "1.3.0", revoked_at=utcnow())

    fleet.publish("2.0.0", 4)
    assert audience.step(fleet.server.db) == 1

    assert fleet.queued() == [
        (fleet.model("1.2.0"), "bsdiff4", 5, False),
        (fleet.model("1.2.0"), "zstd", 5, False),
        (fleet.model("1.1.0"), "bsdiff4", 2, False),
    ]
    assert audience.step(fleet.server.db) == 0  # counted once


def test_a_rollout_counts_again_since_the_fleet_has_moved_on(fleet: Fleet) -> None:
    fleet.publish("1.0.0", 1)
    fleet.publish("1.1.0", 2)
    audience.step(fleet.server.db)
    fleet.add(3, "1.0.0")

    fleet.roll_out("1.1.0")
    audience.step(fleet.server.db)

    assert fleet.queued() == [(fleet.model("1.0.0"), "bsdiff4", 3, False)]


def test_a_variant_for_one_more_profile_counts_again(fleet: Fleet) -> None:
    fleet.publish("1.0.0", 1, "rpi4", "rpi5")
    fleet.publish("1.1.0", 2, "rpi4")
    audience.step(fleet.server.db)
    fleet.add(4, "1.0.0", profiles=["rpi5"])

    fleet.publish("1.1.0", 2, "rpi5")
    audience.step(fleet.server.db)

    assert fleet.queued() == [(fleet.model("1.0.0", "rpi5"), "bsdiff4", 4, False)]


def test_other_tenants_devices_do_not_count(fleet: Fleet, people: Any) -> None:
    fleet.publish("1.0.0", 1)
    fleet.add(3, "1.0.0", tenant=people.other_tenant())

    fleet.publish("1.1.0", 2)
    audience.step(fleet.server.db)

    assert fleet.queued() == []


def test_what_devices_left_out_or_got_wrong_is_passed_over(fleet: Fleet) -> None:
    fleet.publish("1.0.0", 1)
    hellos: list[Any] = [None, {}, {"delta_formats": "tensor"}, {"delta_formats": {"a": 1}}]
    for hello in hellos:
        fleet.add(1, "1.0.0", hello=hello)
    running: list[Any] = [None, 7, {}, {"active": None}, {"active": {"files": 7}}]
    for said in running:
        fleet.add(1, "1.0.0", models={"digits": said})
    fleet.add(1, "1.0.0", memory_bytes="much")

    fleet.publish("1.1.0", 2)

    assert audience.step(fleet.server.db) == 2
    assert fleet.queued() == [(fleet.model("1.0.0"), "bsdiff4", 1, False)]


FILES = {"rpi4": {"model": "new-4", "labels": "same"}, "rpi5": {"model": "new-5"}}


@pytest.mark.parametrize(
    ("profiles", "files", "expected"),
    [
        (("rpi4",), {"model": "old", "labels": "same"}, {("old", "new-4")}),
        (("rpi5", "rpi4"), {"model": "old", "labels": "other"}, {("old", "new-5")}),
        (("coral", "rpi5"), {"model": "old"}, {("old", "new-5")}),
        (("coral",), {"model": "old"}, set()),
        (("rpi4",), {"model": "new-4"}, set()),
        (("rpi4",), {"reference": "old"}, set()),
        ((), {"model": "old"}, set()),
    ],
)
def test_devices_go_to_the_variant_of_the_first_profile_that_they_accept(
    profiles: tuple[str, ...], files: dict[str, str], expected: set[tuple[str, str]]
) -> None:
    found = needs([Audience(files, profiles, ("zstd",), 3)], FILES)

    assert {(one.base, one.new) for one in found} == expected
    assert all(one.devices == 3 for one in found)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from(EVERY), st.integers(1, 1000))),
    st.integers(1, 5),
)
def test_needs_are_bounded_and_sorted_and_count_every_device(
    fleet_of: list[tuple[int, str, int]], most: int
) -> None:
    found = needs(
        [Audience({"model": f"v{base}"}, ("rpi4",), (name,), n) for base, name, n in fleet_of],
        FILES,
        most,
    )

    sums: dict[str, int] = {}
    for base, _, n in fleet_of:
        sums[f"v{base}"] = sums.get(f"v{base}", 0) + n
    assert [one.devices for one in found] == sorted(sums.values(), reverse=True)[:most]
    assert all(sums[one.base] == one.devices for one in found)


@pytest.mark.parametrize(
    ("said", "memory_bytes", "expected"),
    [
        (["tensor", "zstd", "unheard-of"], None, ("tensor", "zstd")),
        (list(EVERY), 512 << 20, EVERY),
        (list(EVERY), 200 << 20, ("bsdiff4", "tensor-planes", "zstd")),
        (list(EVERY), 64 << 20, ("bsdiff4", "tensor-planes")),
        (list(EVERY), 8 << 20, ()),
        (list(EVERY), 0, EVERY),  # nonsense is as good as nothing
        (None, None, ()),
        ("tensor", None, ()),
    ],
)
def test_a_device_gets_formats_that_it_names_and_has_memory_for(
    said: Any, memory_bytes: Any, expected: tuple[str, ...]
) -> None:
    assert patches.formats_for(said, memory_bytes) == expected


@pytest.mark.parametrize(
    ("formats", "size", "tensor", "expected"),
    [
        (EVERY, 1 << 20, None, ("tensor", "bsdiff4", "zstd")),
        (EVERY, 64 << 20, None, ("tensor",)),
        (EVERY, 64 << 20, "ready", ("tensor",)),
        (EVERY, 64 << 20, "larger", ("tensor", "bsdiff4", "zstd")),
        (EVERY, 64 << 20, "failed", ("tensor", "bsdiff4", "zstd")),
        (("bsdiff4", "tensor-planes"), 64 << 20, None, ("tensor-planes",)),
        (("bsdiff4", "zstd"), 64 << 20, None, ("bsdiff4", "zstd")),
        ((), 1, None, ()),
    ],
)
def test_of_large_files_whole_file_formats_wait_for_the_tensor_patch(
    formats: tuple[str, ...], size: int, tensor: str | None, expected: tuple[str, ...]
) -> None:
    rows = {} if tensor is None else {"tensor": Patch(format="tensor", state=tensor)}

    assert patches.worth_making(formats, size, rows) == expected


def test_patches_to_one_file_start_from_a_bounded_number_of_bases(fleet: Fleet) -> None:
    fleet.publish("1.0.0", 1)
    new = fleet.model("1.0.0")

    with fleet.server.db.write() as session:
        for number in range(patches.MOST_BASES + 3):
            base = fleet.server.store.put(b"%d" % number)
            blobs.register(session, "default", base, 3, "file")
            patches.ask(session, "default", base, new, ("bsdiff4",), waits=True)

    assert len(fleet.queued()) == patches.MOST_BASES


def test_nothing_is_asked_for_from_a_base_that_is_not_here(fleet: Fleet) -> None:
    fleet.publish("1.0.0", 1)

    with fleet.server.db.write() as session:
        asked = patches.ask(session, "default", "cd" * 32, fleet.model("1.0.0"), EVERY, waits=True)

    assert asked == []
    assert fleet.queued() == []


def _two_bases(fleet: Fleet) -> tuple[str, str]:
    """Queue patches from two old releases, 1 device and 5 devices; return the bases."""
    fleet.publish("1.0.0", 1)
    fleet.publish("1.1.0", 2)
    fleet.add(1, "1.0.0")
    fleet.add(5, "1.1.0")
    with fleet.server.db.write() as session:
        session.execute(update(Release).values(audience_at=utcnow()))
    fleet.publish("2.0.0", 3)
    audience.step(fleet.server.db)
    return fleet.model("1.0.0"), fleet.model("1.1.0")


def test_who_waits_comes_first_then_the_largest_audience(fleet: Fleet, maker: PatchMaker) -> None:
    rare, common = _two_bases(fleet)
    assert maker._claim().base_sha256 == common  # type: ignore[union-attr]
    with fleet.server.db.write() as session:
        session.execute(update(Patch).values(state="queued"))
        patches.ask(session, "default", rare, fleet.model("2.0.0"), ("bsdiff4",), waits=True)

    order = [maker._claim(), maker._claim(), maker._claim()]

    assert [row and row.base_sha256 for row in order] == [rare, common, None]


def test_patches_are_made_and_become_what_devices_may_fetch(
    fleet: Fleet, maker: PatchMaker
) -> None:
    _two_bases(fleet)

    fleet.make_all(maker)

    with fleet.server.db.read() as session:
        rows = session.scalars(select(Patch)).all()
    assert {row.state for row in rows} == {"ready"}
    assert all(row.cpu_s is not None and row.cpu_s >= 0 for row in rows)
    for row in rows:
        assert row.sha256 is not None
        assert len(fleet.server.store.read(row.sha256)) == row.bytes


@pytest.mark.parametrize(("column", "spent"), [("cpu_s", 1e6), ("bytes", 10**12)])
def test_what_is_made_ahead_is_capped_but_who_waits_is_served(
    fleet: Fleet, maker: PatchMaker, column: str, spent: float
) -> None:
    rare, common = _two_bases(fleet)
    with fleet.server.db.write() as session:
        first = update(Patch).where(Patch.base_sha256 == common)
        session.execute(first.values(state="ready", **{column: spent}))

    assert maker._claim() is None
    with fleet.server.db.write() as session:
        patches.ask(session, "default", rare, fleet.model("2.0.0"), ("bsdiff4",), waits=True)
    claimed = maker._claim()

    assert claimed is not None
    assert claimed.base_sha256 == rare


@pytest.mark.parametrize("template", ["sqlite"], indirect=True)
def test_an_encoder_above_its_cpu_time_is_killed_and_the_next_patch_is_made(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    rare, common = _two_bases(fleet)
    size = 24 << 20  # many times the second that is given, on any machine
    slow = random.Random(0).randbytes(size)
    old, new = (fleet.server.store.put(slow[i:]) for i in (0, 7))
    with fleet.server.db.write() as session:
        for digest in (old, new):
            blobs.register(session, "default", digest, size, "file")
        patches.ask(session, "default", old, new, ("bsdiff4",), waits=True)
    maker = PatchMaker(fleet.server, "gateway-1", cpu_s=0)
    try:
        fleet.make_all(maker)
    finally:
        maker.close()

    states = fleet.states()
    assert states[old] == "failed"
    assert {states[rare], states[common]} <= {"ready", "failed"}
    with fleet.server.db.read() as session:
        row = session.scalars(select(Patch).where(Patch.base_sha256 == old)).one()
    assert row.reason is not None
    assert "CPU seconds" in row.reason


def test_an_encoder_that_is_killed_while_idle_is_replaced_for_the_next_patch(
    fleet: Fleet, maker: PatchMaker
) -> None:
    _two_bases(fleet)
    before = set(multiprocessing.active_children())
    fleet.make_all(maker)
    for child in set(multiprocessing.active_children()) - before:
        child.kill()
        child.join()

    fleet.publish("3.0.0", 4)
    audience.step(fleet.server.db)
    fleet.make_all(maker)

    with fleet.server.db.read() as session:
        rows = session.scalars(select(Patch)).all()
    assert [row.state for row in rows] == ["ready"] * 4


def test_what_a_killed_gateway_was_making_is_taken_over_when_its_heartbeat_is_gone(
    fleet: Fleet, maker: PatchMaker
) -> None:
    _, common = _two_bases(fleet)
    killed = PatchMaker(fleet.server, "gateway-0")
    assert killed._claim().base_sha256 == common  # type: ignore[union-attr]
    long_ago = utcnow() - 2 * making.FRESH
    with fleet.server.db.write() as session:
        session.execute(update(Patch).where(Patch.state == "making").values(started_at=long_ago))
        part = {"started_at": long_ago, "detail": {}, "name": "gateway", "instance": "gateway-0"}
        session.add(Part(beat_at=utcnow(), **part))

    assert maker._claim().base_sha256 != common  # type: ignore[union-attr]  # it lives: not yet
    assert maker._claim() is None
    with fleet.server.db.write() as session:
        session.execute(update(Part).values(beat_at=long_ago))
    claimed = maker._claim()

    assert claimed is not None
    assert (claimed.base_sha256, claimed.attempts) == (common, 2)


def test_a_patch_that_gateways_die_of_is_given_up(fleet: Fleet, maker: PatchMaker) -> None:
    _, common = _two_bases(fleet)
    for _ in range(making.MOST_ATTEMPTS):
        assert maker._claim().base_sha256 == common  # type: ignore[union-attr]
        with fleet.server.db.write() as session:
            dead = update(Patch).where(Patch.base_sha256 == common)
            session.execute(dead.values(started_at=utcnow() - timedelta(days=1)))

    assert maker._claim() is None
    assert fleet.states()[common] == "failed"


def test_what_a_gateway_was_making_when_it_stopped_is_queued_again(
    fleet: Fleet, maker: PatchMaker
) -> None:
    _two_bases(fleet)
    stopped = PatchMaker(fleet.server, "gateway-0", workers=2)
    stopped.step()
    assert set(fleet.states().values()) == {"making"}

    stopped.close()
    assert set(fleet.states().values()) == {"queued"}
    fleet.make_all(maker)

    assert set(fleet.states().values()) == {"ready"}


def test_labels_and_small_files_travel_whole(fleet: Fleet) -> None:
    _two_bases(fleet)

    with fleet.server.db.read() as session:
        small = session.scalars(select(VariantFile.sha256).where(VariantFile.bytes < 1024)).all()
        bases = {row.base_sha256 for row in session.scalars(select(Patch))}

    assert small
    assert not bases & set(small)


def test_an_encoder_says_what_went_wrong(fleet: Fleet) -> None:
    base = fleet.server.store.put(b"old" * 1000)

    outcome = encoder.make(fleet.server.settings.blobs_dir, base, "ef" * 32, "bsdiff4", 10**6)

    assert outcome.state == "failed"
    assert outcome.reason is not None


def test_an_encoder_that_fails_in_a_way_of_its_own_costs_one_patch_alone(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object) -> None:
        raise zstandard.ZstdError("cannot compress: Allocation error")

    monkeypatch.setattr(encoder, "make_patch", out_of_memory)
    old, new = (fleet.server.store.put(data * 1000) for data in (b"old", b"new"))

    outcome = encoder.make(fleet.server.settings.blobs_dir, old, new, "zstd", 10**6)

    assert (outcome.state, outcome.sha256) == ("failed", None)
    assert "Allocation error" in (outcome.reason or "")
