"""Whose block goes out when: laws of the server's queue, by a clock that the tests move."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec_fleet.gateway.admission import REQUESTS_AT_ONCE, REQUESTS_PER_S, Admission
from edgec_fleet.gateway.pace import Buckets
from edgec_fleet.gateway.wants import MAXIMUM_BLOCKS, Pace, Piece, Wants

BLOCK = 1000


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def make(clock, **pace):
    return Wants(Pace(BLOCK, **pace), clock)


BIG = 10**6


def add(wants, device, tenant, digest, blocks, size=BIG):
    wants.add(device, tenant, digest, blocks, size)


def drain(wants, clock, until_s=0.0, step_s=0.05):
    """Return [(seconds from now, Piece)] of all that goes out within `until_s`."""
    started, found = clock.now, []
    while True:
        while (piece := wants.next(0)) is not None:
            found.append((clock.now - started, piece))
        if clock.now - started >= until_s:
            return found
        clock.now += step_s


def blocks(found):
    return [piece.block for _, piece in found]


def test_wants_that_are_gathered_go_out_once_for_all_in_order(clock):
    wants = make(clock)
    add(wants, "a", "t", "aa", (0, 1, 2))
    clock.now += 0.1
    add(wants, "b", "t", "aa", (1, 2, 3))

    assert wants.next(0) is None  # somebody else may join
    found = drain(wants, clock, 1.0)

    assert sorted(blocks(found)) == [0, 1, 2, 3]
    assert len(wants) == 0


def test_a_crowd_that_keeps_coming_is_not_gathered_for_ever(clock):
    wants = make(clock, gather_s=3.0)
    started = clock.now
    for number in range(100):
        add(wants, f"d{number}", "t", "aa", (0,))
        if (piece := wants.next(0)) is not None:
            break
        clock.now += 0.1

    assert piece == Piece("t", "aa", 0)
    assert 2.9 < clock.now - started < 3.2


def test_devices_that_were_told_of_a_blob_are_waited_for(clock):
    wants = make(clock, gather_s=8.0)
    went_out = []
    for number in range(30):  # told one every half second, asking two seconds later
        wants.expect("t", ["aa"])
        if number >= 4:
            add(wants, f"d{number}", "t", "aa", (0,))
        went_out += drain(wants, clock, 0.5)

    assert went_out == []
    assert blocks(drain(wants, clock, 3.0)) == [0]


def test_nobody_is_waited_for_longer_than_devices_are_patient(clock):
    wants = make(clock, gather_s=8.0)
    started = clock.now
    add(wants, "first", "t", "aa", (0,))
    while not (found := wants.next(0)):
        wants.expect("t", ["aa"])
        clock.now += 0.1

    assert found.block == 0
    assert clock.now - started < 21


def test_who_listens_and_asks_for_what_just_went_out_is_not_sent_it_again(clock):
    wants = make(clock, gather_s=8.0)
    for device in ("a", "b"):
        add(wants, device, "t", "aa", (0, 1))
    drain(wants, clock, 1.0)
    add(wants, "a", "t", "aa", (2, 3))
    assert blocks(drain(wants, clock, 0.1)) == [2, 3]

    add(wants, "b", "t", "aa", (2, 3))  # asked before they came
    assert drain(wants, clock, 9.0) == []

    add(wants, "b", "t", "aa", (2,))  # asked again: it was lost
    assert blocks(drain(wants, clock, 1.0)) == [2]


def test_who_connected_anew_is_sent_again_what_it_asks_for(clock):
    wants = make(clock, gather_s=8.0)
    add(wants, "a", "t", "aa", (0, 1))
    drain(wants, clock, 1.0)
    wants.forget("a")

    add(wants, "a", "t", "aa", (1,))

    assert blocks(drain(wants, clock, 8.0)) == [1]


def test_a_small_blob_is_not_worth_waiting_for(clock):
    wants = make(clock, gather_s=8.0)
    add(wants, "early", "t", "aa", (0,), 1000)
    assert blocks(drain(wants, clock, 0.3)) == [0]
    add(wants, "late", "t", "aa", (0,), 1000)

    assert blocks(drain(wants, clock, 0.3)) == [0]


def test_who_comes_too_late_for_a_block_waits_with_the_others_and_gets_it_once(clock):
    wants = make(clock, gather_s=3.0)
    add(wants, "early", "t", "aa", (0, 1))
    assert blocks(drain(wants, clock, 0.5)) == [0, 1]
    for number in range(50):
        add(wants, f"late-{number}", "t", "aa", (0, 1))

    found = drain(wants, clock, 5.0)

    assert blocks(found) == [0, 1]
    assert all(2.0 < at < 3.1 for at, _ in found)


def test_the_same_digest_of_two_tenants_is_two_blobs(clock):
    wants = make(clock)
    add(wants, "a", "one", "aa", (0,))
    add(wants, "b", "two", "aa", (0,))

    assert {piece.tenant for _, piece in drain(wants, clock, 1.0)} == {"one", "two"}


def test_a_device_that_wants_much_does_not_hold_up_one_that_wants_little(clock):
    wants = make(clock)
    add(wants, "greedy", "t", "aa", range(1000))
    add(wants, "modest", "t", "bb", (0, 1))
    clock.now += 1

    first = [wants.next(0) for _ in range(4)]

    assert sorted(piece.digest for piece in first) == ["aa", "aa", "bb", "bb"]


def test_the_rate_of_all_blocks_is_kept(clock):
    wants = make(clock, bytes_per_s=10 * BLOCK)
    add(wants, "a", "t", "aa", range(200))

    found = drain(wants, clock, 10.0)

    assert 95 <= len(found) <= 105


def test_a_device_pays_for_what_it_causes_and_is_slowed_down_alone(clock):
    wants = make(clock, gather_s=0.0, device_bytes_per_s=10 * BLOCK)
    add(wants, "greedy", "t", "aa", range(1000))
    fast = Counter()
    for _ in range(100):
        add(wants, "modest", "t", "bb", (0,))
        fast.update(piece.digest for _, piece in drain(wants, clock))
        clock.now += 0.1

    assert 100 <= fast["aa"] <= 125  # ten a second, and two seconds' worth at once
    assert fast["bb"] == 100


def test_what_others_pay_for_comes_to_a_device_in_debt_too(clock):
    wants = make(clock, gather_s=0.0, device_bytes_per_s=BLOCK)
    add(wants, "poor", "t", "aa", range(10))
    assert len(drain(wants, clock)) < 5
    add(wants, "rich", "t", "aa", range(10))

    drain(wants, clock)
    add(wants, "other", "t", "aa", range(10))
    drain(wants, clock)
    drain(wants, clock, 3.0)

    assert len(wants) == 0


def test_one_device_can_not_fill_the_memory(clock):
    wants = make(clock)
    for digest in ("aa", "bb", "cc"):
        add(wants, "greedy", "t", digest, range(1000))

    assert len(wants) == MAXIMUM_BLOCKS


def test_nothing_is_left_after_the_broker_lost_everybody(clock):
    wants = make(clock)
    add(wants, "a", "t", "aa", (0,))
    wants.clear()

    assert drain(wants, clock, 5.0) == []
    add(wants, "a", "t", "aa", (0,))
    assert blocks(drain(wants, clock, 5.0)) == [0]


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"),
            st.sampled_from(["aa", "bb"]),
            st.sets(st.integers(0, 12), min_size=1),
            st.floats(0, 2),
        ),
        max_size=20,
    ),
    st.sampled_from([0, 5 * BLOCK]),
    st.sampled_from([0.0, 1.0]),
)
def test_everything_that_is_wanted_goes_out_and_nothing_else(calls, rate, gather_s):
    clock = Clock()
    wants = make(clock, gather_s=gather_s, bytes_per_s=rate, device_bytes_per_s=rate)
    asked, found = set(), []
    for device, digest, wanted, pause_s in calls:
        add(wants, device, "t", digest, sorted(wanted))
        asked |= {Piece("t", digest, block) for block in wanted}
        found += drain(wants, clock, pause_s, 0.5)
    found += drain(wants, clock, 200.0, 0.5)

    pieces = [piece for _, piece in found]
    assert set(pieces) == asked
    assert len(wants) == 0
    # at most once for each time somebody asked
    most = Counter(Piece("t", digest, block) for _, digest, wanted, _ in calls for block in wanted)
    assert all(count <= most[piece] for piece, count in Counter(pieces).items())


# -- admission ---------------------------------------------------------------------------------


def topic(kind, device="cam"):
    return f"edgec/v1/default/dev/{device}/up/{kind}"


def test_a_flood_of_requests_is_cut_and_other_devices_are_not(clock):
    admission = Admission(clock)

    admitted = sum(admission.admits(topic("request")) for _ in range(10_000))

    assert admitted <= REQUESTS_AT_ONCE + 1
    assert admission.admits(topic("request", "other"))
    assert admission.admits(topic("event"))  # what it has to report is counted apart
    clock.now += 2
    admitted = sum(admission.admits(topic("request")) for _ in range(10_000))
    assert admitted == pytest.approx(2 * REQUESTS_PER_S, abs=2)


def test_the_backlog_of_a_device_that_was_offline_for_weeks_is_taken_whole(clock):
    admission = Admission(clock)

    assert all(admission.admits(topic("event")) for _ in range(2000))
    assert all(admission.admits(topic("telemetry")) for _ in range(100))


def test_a_topic_that_is_none_is_left_to_whoever_parses(clock):
    assert Admission(clock).admits("what/is/this")


def test_buckets_of_devices_that_went_quiet_are_forgotten(clock):
    buckets = Buckets(10.0, 10.0, clock, kept=100)
    for number in range(1000):
        buckets.take(f"d{number}")
        clock.now += 1

    assert len(buckets._buckets) <= 101
