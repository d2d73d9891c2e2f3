"""What the agent remembers, and that it is on the disk when a call returns."""

import sqlite3
import subprocess
import sys
import textwrap
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec_agent.config import AgentConfig, load_config
from edgec_agent.config import Outbox as Bounds
from edgec_agent.errors import ConfigError, StateError
from edgec_agent.machine import Phase, Verdict
from edgec_agent.mailbox import Mailbox
from edgec_agent.outbox import Outbox
from edgec_agent.state import AgentState, Moved, Slots, Update
from edgec_agent.telemetry import merge
from edgec_bundle.errors import MessageError
from edgec_bundle.messages import (
    Counts,
    Deployed,
    Event,
    ModelTelemetry,
    Percentiles,
    Telemetry,
    Window,
    rfc3339,
)

A, B = "a" * 64, "b" * 64
NOW = rfc3339(datetime(2026, 1, 1, tzinfo=UTC))
LATER = rfc3339(datetime(2026, 1, 2, tzinfo=UTC))


@pytest.fixture
def state(tmp_path):
    state = AgentState(tmp_path / "state.db")
    yield state
    state.close()


def deployed(digest, version="1.0.0", release=1):
    return Deployed(manifest=digest, version=version, release=release, files={"model": digest})


def test_everything_is_there_again_after_reopening(tmp_path):
    state = AgentState(tmp_path / "state.db")
    slots = Slots(deployed(A, "1.1.0", 2), deployed(B))
    moved = Moved(10, 20, ("http", "mqtt"), True, ("p1",), 1)
    update = Update("digits", Phase.TESTING, A, "1.1.0", 7, "r1", "why", 2, 1, moved)
    verdict = Verdict(Phase.REJECTED, "worse", 7, "r1")
    state.set_slots("digits", slots)
    state.save_update(update)
    state.remember("digits", B, verdict)
    state.raise_floor("digits", 2)
    state.close()

    again = AgentState(tmp_path / "state.db")

    assert again.slots("digits") == slots
    assert again.update("digits") == update
    assert again.verdict("digits", B) == verdict
    assert again.floor_release("digits") == 2
    assert again.models() == ("digits",)
    assert again.is_sound()
    again.close()


def test_a_failed_transaction_changes_nothing(state):
    state.set_cell("key", b"before")

    def fail_half_way():
        with state.transaction():
            state.set_cell("key", b"after")
            with state.transaction():
                state.set_slots("digits", Slots(deployed(A)))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()

    assert state.cell("key") == b"before"
    assert state.slots("digits") == Slots()


def test_a_floor_never_sinks(state):
    state.raise_floor("digits", 5)
    state.raise_floor("digits", 3)

    assert state.floor_release("digits") == 5


def test_events_are_numbered_within_a_boot(state):
    first = state.begin_boot()
    numbers = [state.next_seq() for _ in range(3)]
    second = state.begin_boot()

    assert numbers == [(first, 1), (first, 2), (first, 3)]
    assert state.next_seq() == (second, 1)
    assert first != second


def test_what_was_committed_survives_a_kill(tmp_path):
    script = textwrap.dedent(
        """
        import os, sys
        from pathlib import Path
        from edgec_agent.state import AgentState
        state = AgentState(Path(sys.argv[1]))
        state.set_cell("kept", b"yes")
        context = state.transaction()
        context.__enter__()
        state.set_cell("lost", b"yes")
        os.kill(os.getpid(), 9)
        """
    )
    path = tmp_path / "state.db"

    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False)

    state = AgentState(path)
    assert killed.returncode == -9
    assert state.cell("kept") == b"yes"
    assert state.cell("lost") is None
    state.close()


@pytest.mark.parametrize("damage", [b"", b"not a database, but long enough" * 100])
def test_a_damaged_file_is_said_to_be_damaged(tmp_path, damage):
    path = tmp_path / "state.db"
    path.write_bytes(damage)

    if damage:
        with pytest.raises(StateError, match=r"state\.db"):
            AgentState(path)
    else:  # SQLite's way to say: new
        AgentState(path).close()


def test_a_file_of_a_newer_agent_is_refused(tmp_path):
    path = tmp_path / "state.db"
    AgentState(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()

    with pytest.raises(StateError, match="got 99"):
        AgentState(path)


def test_a_command_is_answered_once(state):
    mailbox = Mailbox(state)
    first = mailbox.put("rollback", {"model": "digits"})
    assert mailbox.take_answer(first) is None
    command = mailbox.next()

    mailbox.answer(command.id, {"ok": True})

    assert (command.id, command.verb, command.arguments) == (
        first,
        "rollback",
        {"model": "digits"},
    )
    assert mailbox.next() is None
    assert mailbox.take_answer(first) == {"ok": True}
    assert mailbox.take_answer(first) is None


# -- outbox ------------------------------------------------------------------------------------


def event(seq):
    return Event(
        at=NOW,
        boot_id="boot",
        seq=seq,
        model="digits",
        manifest=A,
        assignment=1,
        phase="testing",
        previous_phase="verifying",
    )


def telemetry(requests=1, manifest=A, counts=(1, 0), start=NOW, end=LATER, p=1.0):
    histogram = Counts(edges=(0.0, 0.5, 1.0), counts=counts)
    model = ModelTelemetry(
        manifest=manifest,
        requests=requests,
        failed=0,
        latency_ms=Percentiles(p50=p, p95=p, p99=p),
        histograms={"confidence": histogram},
    )
    return Telemetry(
        at=NOW, boot_id="boot", window=Window(start=start, end=end), models={"digits": model}
    )


def test_letters_leave_in_the_order_they_came(state):
    outbox = Outbox(state, Bounds())
    for seq in range(1, 4):
        outbox.put(event(seq))
    first, second, _ = outbox.oldest(10)

    outbox.delete(first.id)

    assert [one.id for one in outbox.oldest(10, after=second.id)] == [second.id + 1]
    assert outbox.count() == 2


def test_telemetry_is_merged_oldest_first_and_no_request_is_forgotten(state):
    outbox = Outbox(state, Bounds(telemetry=3))

    for _ in range(50):
        outbox.put(telemetry(requests=2))

    kept = [Telemetry.from_bytes(one.payload) for one in outbox.oldest(10)]
    assert [one.models["digits"].requests for one in kept] == [96, 2, 2]
    assert outbox.dropped == 0


def test_windows_that_cannot_be_merged_are_dropped_and_counted(state):
    outbox = Outbox(state, Bounds(telemetry=2))

    for manifest in (A, B, A, B):
        outbox.put(telemetry(manifest=manifest))

    assert outbox.count() == 2
    assert outbox.dropped == 2


def test_events_are_dropped_last_and_the_outbox_never_passes_its_bounds(state):
    outbox = Outbox(state, Bounds(events=5, telemetry=5, bytes=4000))

    for seq in range(1, 40):
        outbox.put(telemetry())
        outbox.put(event(seq))

    kept = outbox.oldest(100)
    assert sum(len(one.payload) for one in kept) <= 4000
    events = [Event.from_bytes(one.payload) for one in kept if one.kind == "event"]
    assert [one.seq for one in events] == [35, 36, 37, 38, 39]


windows = st.builds(
    telemetry,
    requests=st.integers(0, 1000),
    counts=st.tuples(st.integers(0, 99), st.integers(0, 99)),
    p=st.floats(0, 1000),
)


@given(windows, windows)
def test_a_merged_window_adds_up_and_never_looks_better(one, two):
    merged = Telemetry.from_bytes(merge(one, two).to_bytes())
    both = [one.models["digits"], two.models["digits"]]
    total = merged.models["digits"]

    assert total.requests == sum(m.requests for m in both)
    assert sum(total.histograms["confidence"].counts) == sum(
        sum(m.histograms["confidence"].counts) for m in both
    )
    assert total.latency_ms.p95 == max(m.latency_ms.p95 for m in both)


def test_other_edges_or_another_manifest_cannot_be_merged():
    with pytest.raises(MessageError):
        merge(telemetry(manifest=A), telemetry(manifest=B))


# -- configuration -----------------------------------------------------------------------------


def test_without_a_file_everything_has_a_default(tmp_path):
    assert load_config(tmp_path) == AgentConfig()


def test_flags_go_over_the_file(tmp_path):
    (tmp_path / "agent.toml").write_text(
        'profiles = ["rpi4"]\n[probation]\nsamples = 7\nseconds = 3\n'
    )

    config = load_config(tmp_path, {"probation.samples": 9, "probation.seconds": None})

    assert config.profiles == ("rpi4",)
    assert config.probation.samples == 9
    assert config.probation.seconds == 3.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense = 1", "unknown key nonsense"),
        ("[probation]\nsample = 1", "unknown key probation.sample"),
        ("[probation]\nsamples = 'many'", "expected an integer"),
        ("[probation]\nsamples = true", "expected an integer"),
        ("[probation]\nsamples = 1.5", "expected an integer"),
        ("[probation]\nseconds = -1", "expected 0 or more"),
        ("[probation]\nseconds = nan", "expected 0 or more"),
        ("[probation]\nminimum_agreement = 1.5", "expected 0 to 1"),
        ("probation = 3", "expected a table"),
        ("profiles = 'rpi4'", "expected a list of texts"),
        ("profiles = ['RPi 4']", "not a profile's name"),
        ("threads = 0", "expected more than 0"),
        ("[transfer]\ndelta_formats = ['xdelta']", "expected some of bsdiff4, .*got 'xdelta'"),
        ("= 1", "not TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path, text, words):
    (tmp_path / "agent.toml").write_text(text)

    with pytest.raises(ConfigError, match=words):
        load_config(tmp_path)
