"""The walk of an update through real parts: signed metadata, models, child processes."""

import bz2
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard
from bench import Bench, MemorySource, load_on
from fleet_world import BAD, V1, V2, bundle, patch

from edgec_agent.download import SourceError
from edgec_agent.folder import open_state
from edgec_bundle.delta.header import PatchHeader, write_varint


@pytest.fixture
def device(tmp_path, fleet):
    bench = Bench(tmp_path, fleet)
    yield bench
    bench.close()


def test_the_first_release_is_fetched_tested_and_serves(device, fleet):
    first = fleet.release(*V1)

    device.offer(first)

    assert device.phases() == [
        "offered",
        "fetching",
        "verifying",
        "testing",
        "staged",
        "probation",
        "committed",
    ]
    assert device.serving() == "1.0.0"
    assert device.state.floor_release("digits") == 1
    staged = next(event for event in device.events() if event.phase == "staged")
    assert staged.evidence["golden"]["passed"]
    assert staged.rollout == "1"
    assert staged.assignment == 1


def test_an_update_comes_as_a_patch_and_no_request_fails_during_the_swap(device, fleet):
    first, second = fleet.release(*V1), fleet.release(*V2)
    device.offer(first)
    fleet.offer_patch(first, second, patch(V1[0], V2[0]))

    with load_on(device.host) as failures:
        device.offer(second)

    assert failures == []
    assert device.serving() == "1.1.0"
    assert device.phase() == "committed"
    verifying = [event for event in device.events() if event.phase == "verifying"][-1]
    assert verifying.evidence["transfer"]["patch"]
    assert second.entry("model").sha256 not in device.source.asked
    committed = device.events()[-1]
    assert committed.evidence["probation"]["samples"] >= 10
    assert committed.evidence["probation"]["agreement"] > 0.9
    slots = device.state.slots("digits")
    assert (slots.active.version, slots.previous.version) == ("1.1.0", "1.0.0")


def test_a_bad_model_is_refused_by_the_acceptance_set_and_serving_never_noticed(device, fleet):
    fleet.accept_digits(0.9)
    first, bad = fleet.release(*V1), fleet.release(*BAD)
    device.offer(first)

    with load_on(device.host) as failures:
        device.offer(bad)

    assert failures == []
    assert device.phase() == "rejected"
    assert device.serving() == "1.0.0"
    event = device.events()[-1]
    assert event.phase == "rejected"
    assert event.evidence["golden"]["passed"]  # it does run here as compiled
    assert not event.evidence["acceptance"]["passed"]
    assert event.evidence["acceptance"]["score"] < 0.5
    assert "acceptance" in event.reason


def test_without_an_acceptance_set_probation_catches_it_by_disagreement(device, fleet):
    first, bad = fleet.release(*V1), fleet.release(*BAD)
    device.offer(first)

    with load_on(device.host) as failures:
        device.offer(bad)

    assert failures == []
    assert device.phase() == "rolled_back"
    assert device.serving() == "1.0.0"
    assert device.active() == "1.0.0"
    event = device.events()[-1]
    assert event.phase == "rolled_back"
    assert event.evidence["probation"]["agreement"] < 0.5
    assert "agreement" in event.reason
    assert device.state.floor_release("digits") == 1


def test_in_shadow_it_is_refused_before_it_answered_once(tmp_path, fleet):
    device = Bench(tmp_path, fleet, **{"shadow.samples": 30})
    first, bad = fleet.release(*V1), fleet.release(*BAD)
    device.offer(first)

    device.offer(bad)

    assert "probation" not in device.phases()[-3:]
    assert device.phase() == "rejected"
    assert device.serving() == "1.0.0"
    device.close()


def test_a_good_model_passes_shadow_and_probation(tmp_path, fleet):
    device = Bench(tmp_path, fleet, **{"shadow.samples": 30})
    first, second = fleet.release(*V1), fleet.release(*V2)
    device.offer(first)

    device.offer(second)

    assert device.phases()[-4:] == ["staged", "shadow", "probation", "committed"]
    assert device.serving() == "1.1.0"
    device.close()


def test_a_refused_release_is_tried_again_only_in_another_rollout(device, fleet):
    first, bad = fleet.release(*V1), fleet.release(*BAD)
    device.offer(first)
    device.offer(bad, rollout="2")
    tested = device.phases().count("testing")

    device.offer(bad, rollout="2")  # again, with a higher counter
    again = device.phases().count("testing")
    repeated = device.events()[-1]
    device.offer(bad, rollout="3")  # an operator's decision

    assert again == tested
    assert repeated.phase == "rolled_back"
    assert repeated.evidence == {"repeated": True}
    assert device.phases().count("testing") == tested + 1


def test_the_same_assignment_twice_changes_nothing(device, fleet):
    first = fleet.release(*V1)
    desired = fleet.desired(first)
    device.updater.take(desired)
    device.settle()
    before = device.phases()

    device.updater.take(desired)
    device.settle()

    assert device.phases() == before


def test_another_rollout_of_what_runs_already_is_confirmed_at_once(device, fleet):
    first = fleet.release(*V1)
    device.offer(first, rollout="1")

    device.offer(first, rollout="2")
    device.offer(first, rollout="2")

    told = [event for event in device.events() if event.rollout == "2"]
    assert [(event.phase, event.evidence) for event in told] == [("committed", {"already": True})]


# -- patches -----------------------------------------------------------------------------------


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_patch_with_a_flipped_byte_is_refused_and_the_full_file_comes(device, fleet):
    first, second = fleet.release(*V1), fleet.release(*V2)
    device.offer(first)
    good = patch(V1[0], V2[0])
    hostile = fleet.offer_patch(first, second, flipped(good, len(good) // 2))

    device.offer(second)

    refusal = next(event for event in device.events() if "patch" in event.evidence)
    assert refusal.evidence["patch"]["sha256"] == hostile.sha256
    assert (refusal.previous_phase, refusal.phase) == ("patching", "fetching")
    assert device.phase() == "committed"
    assert device.source.asked.count(hostile.sha256) == 1
    assert second.entry("model").sha256 in device.source.asked


def test_after_three_useless_patches_no_fourth_is_tried(device, fleet):
    first, second = fleet.release(*V1), fleet.release(*V2)
    device.offer(first)
    good = patch(V1[0], V2[0])
    bad = [fleet.offer_patch(first, second, flipped(good, 200 + at)) for at in range(5)]

    device.offer(second)

    assert sum(one.sha256 in device.source.asked for one in bad) == 3
    assert device.phase() == "committed"


def test_bombs_declared_small_are_refused_and_the_full_file_comes(device, fleet):
    first, second = fleet.release(*V1), fleet.release(*V2)
    device.offer(first)
    old, new = first.entry("model"), second.entry("model")
    zeros = bytes(100 << 20)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        3, write_content_size=0, format=zstandard.FORMAT_ZSTD1_MAGICLESS
    )
    control = bz2.compress((0).to_bytes(8, "little") + new.bytes.to_bytes(16, "little"))
    bombs = {
        "zstd": zstandard.ZstdCompressor(compression_params=parameters).compress(zeros),
        "bsdiff4": write_varint(len(control)) + write_varint(0) + control + bz2.compress(zeros),
    }
    for form, body in bombs.items():
        header = PatchHeader(form, old.sha256, old.bytes, new.sha256, new.bytes)
        fleet.offer_patch(first, second, header.to_bytes() + body)

    device.offer(second)

    refused = [event.reason for event in device.events() if "patch" in event.evidence]
    assert len(refused) == 2
    assert new.sha256 in device.source.asked
    assert device.serving() == "1.1.0"


def test_a_patch_that_cannot_be_had_is_passed_over(device, fleet):
    first, second = fleet.release(*V1), fleet.release(*V2)
    device.offer(first)
    lost = fleet.offer_patch(first, second, patch(V1[0], V2[0]))
    del fleet.blobs[lost.sha256]

    device.offer(second)

    assert device.phase() == "committed"


class Broken(MemorySource):
    """Does not send some blobs, for no good reason, or only after a while."""

    def __init__(self, blobs):
        super().__init__(blobs)
        self.broken_for = {}  # digest -> how many more times

    def pull(self, partial, interrupt):
        if self.broken_for.get(partial.digest, 0):
            self.broken_for[partial.digest] -= 1
            self.asked.append(partial.digest)
            raise SourceError("HTTP 500")
        super().pull(partial, interrupt)


@pytest.mark.parametrize(("times", "patched"), [(2, True), (3, False), (1000, False)])
def test_a_patch_that_the_server_fails_to_send_is_tried_three_times_then_the_full_file_comes(
    tmp_path, fleet, times, patched
):
    source = Broken(fleet.blobs)
    device = Bench(tmp_path, fleet, source)
    first, second = fleet.release(*V1), fleet.release(*V2)
    device.offer(first)
    offered = fleet.offer_patch(first, second, patch(V1[0], V2[0]))
    source.broken_for[offered.sha256] = times

    device.offer(second)

    assert device.phase() == "committed"
    assert source.asked.count(offered.sha256) == 3
    assert (second.entry("model").sha256 in source.asked) is not patched
    failed = [event for event in device.events() if event.phase == "failed"]
    assert {event.evidence["cause"] for event in failed} == {"unavailable"}
    device.close()


def test_room_for_what_a_patch_makes_is_reserved_before_the_patch_is_fetched(
    device, fleet, monkeypatch
):
    first, second = fleet.release(*V1), fleet.release(*V2)
    device.offer(first)
    offered = fleet.offer_patch(first, second, patch(V1[0], V2[0]))
    real = shutil.disk_usage
    room = (4 << 20) + second.entry("model").bytes - 1  # enough for the patch alone
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=room))

    device.offer(second)

    assert offered.bytes < second.entry("model").bytes
    assert device.phase() == "failed"
    assert device.events()[-1].evidence["cause"] == "no_space"
    assert offered.sha256 not in device.source.asked
    assert device.serving() == "1.0.0"


def test_a_patch_from_a_base_that_is_not_here_is_not_even_asked_for(device, fleet):
    second = fleet.release(*V2)
    first = bundle(*V1)[0]
    source = fleet.offer_patch(first, second, patch(V1[0], V2[0]))

    device.offer(second)

    assert source.sha256 not in device.source.asked
    assert device.phase() == "committed"


# -- not for me --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"profile": "rpi4"}, "profile rpi4 is not accepted"),
    ],
)
def test_what_is_not_for_this_device_is_rejected_with_the_reason(device, fleet, fields, words):
    foreign = fleet.release(*V1, **fields)

    device.offer(foreign)

    assert device.phase() == "rejected"
    assert words in device.events()[-1].reason
    assert device.host.models() == ()


def test_an_older_release_is_refused_unless_the_release_keys_allow_it(device, fleet):
    first, second = fleet.release(*V1), fleet.release(*V2)
    device.offer(second)

    device.offer(first, rollout="2")
    refused = device.phase()
    fleet.allow_rollback(first)
    device.offer(first, rollout="3")

    assert refused == "rejected"
    assert device.phase() == "committed"
    assert device.serving() == "1.0.0"
    assert device.state.floor_release("digits") == 2


def test_an_assignment_for_another_device_is_refused_and_reported(device, fleet):
    first, second = fleet.release(*V1), fleet.release(*V2)
    device.offer(first)

    device.offer(second, device="camera-2")

    assert device.serving() == "1.0.0"
    event = device.events()[-1]
    assert (event.phase, event.manifest) == ("rejected", second.digest)
    assert "camera-2" in event.reason
    assert device.phase() == "committed"


def test_an_older_assignment_is_refused(device, fleet):
    first, second = fleet.release(*V1), fleet.release(*V2)
    old = fleet.desired(first)
    device.offer(second)

    device.updater.take(old)
    device.settle()

    assert device.serving() == "1.1.0"


def test_garbage_instead_of_an_assignment_changes_nothing(device, fleet):
    device.offer(fleet.release(*V1))
    before = device.phases()

    for garbage in (b"", b"\x00", b"{}", b"[" * 100_000):
        device.updater.take(garbage)
        device.settle()

    assert device.phases() == before
    assert device.serving() == "1.0.0"


# -- hopeless cases end ------------------------------------------------------------------------


def test_a_blob_that_nobody_has_fails_a_few_times_and_then_rests(device, fleet):
    first = fleet.release(*V1)
    del fleet.blobs[first.entry("model").sha256]

    device.offer(first)

    assert device.phase() == "failed"
    assert device.phases().count("failed") == 3
    assert "not here" in device.events()[-1].reason


def test_what_failed_for_good_is_tried_again_when_assigned_anew(device, fleet):
    first, second = fleet.release(*V1), fleet.release(*V2)
    model = first.entry("model").sha256
    kept = fleet.blobs.pop(model)
    device.offer(first)
    fleet.blobs[model] = kept

    device.offer(first)

    assert device.phase() == "committed"
    assert second.version == "1.1.0"


def test_a_blob_that_keeps_coming_wrong_fails(device, fleet):
    first = fleet.release(*V1)
    model = first.entry("model").sha256
    device.source.broken = lambda digest, at, data: (
        bytes(len(data)) if digest == model and at == 0 else data
    )

    device.offer(first)

    assert device.phase() == "failed"
    assert "came wrong" in device.events()[-1].reason
    assert not device.parts.store.has(model)


def test_offline_is_no_failure(device, fleet):
    first = fleet.release(*V1)
    device.updater.take(fleet.desired(first))
    device.updater.run_once()  # the assignment arrives ...
    device.source.ready = False  # ... and then the network goes
    for _ in range(50):
        device.updater.run_once()
    waiting = device.phase()

    device.source.ready = True
    device.updater.wake()
    device.settle()

    assert waiting == "offered"
    assert "failed" not in device.phases()
    assert device.phase() == "committed"


def test_a_link_that_breaks_all_the_time_gets_there_in_the_end(tmp_path, fleet):
    source = MemorySource(fleet.blobs)
    source.stop_after = 1  # one block per connection
    device = Bench(tmp_path, fleet, source)

    device.offer(fleet.release(*V1))

    assert device.phase() == "committed"
    device.close()


def test_a_full_disk_is_a_failure_with_its_own_reason_and_serving_goes_on(
    device, fleet, monkeypatch
):
    first, second = fleet.release(*V1), fleet.release(*V2)
    device.offer(first)
    real = shutil.disk_usage
    little = (4 << 20) + 50_000  # what the store leaves to others, and room for the manifest
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=little))

    device.offer(second)

    assert device.phase() == "failed"
    assert "no room" in device.events()[-1].reason
    assert device.events()[-1].evidence["cause"] == "no_space"
    assert device.serving() == "1.0.0"


def test_a_newer_assignment_takes_the_place_of_one_under_way(device, fleet):
    first, second = fleet.release(*V1), fleet.release(*V2)
    device.updater.take(fleet.desired(first))
    device.updater.run_once()
    device.updater.run_once()  # its manifest is here

    device.offer(second)

    assert device.serving() == "1.1.0"
    assert "idle" in device.phases()
    assert not device.parts.store.has(first.digest)


# -- restarts ----------------------------------------------------------------------------------


def test_it_boots_and_serves_with_no_network(tmp_path, fleet):
    device = Bench(tmp_path, fleet)
    device.offer(fleet.release(*V1))
    device.close()

    source = MemorySource({})
    source.ready = False
    again = Bench(tmp_path, fleet, source)

    assert again.serving() == "1.0.0"
    again.close()


def test_a_restart_in_the_middle_goes_on_where_it_ended(tmp_path, fleet):
    first = fleet.release(*V1)
    device = Bench(tmp_path, fleet)
    device.updater.take(fleet.desired(first))
    while device.state.update("digits") is None or device.phase() != "verifying":
        device.updater.run_once()
    device.die()

    again = Bench(tmp_path, fleet)
    again.settle()

    assert again.phase() == "committed"
    assert again.source.asked == []
    again.close()


def test_probation_begins_again_after_a_restart(tmp_path, fleet):
    first, second = fleet.release(*V1), fleet.release(*V2)
    device = Bench(tmp_path, fleet)
    device.offer(first)
    device.updater.take(fleet.desired(second))
    while device.phase() != "probation":
        device.updater.run_once()
    device.die()

    again = Bench(tmp_path, fleet)
    in_probation = again.phase()
    again.settle()

    assert in_probation == "probation"
    assert again.phase() == "committed"
    assert again.events()[-1].evidence["probation"]["samples"] > 0
    again.close()


def test_an_agent_that_keeps_dying_in_probation_returns_to_the_previous_model(tmp_path, fleet):
    first, second = fleet.release(*V1), fleet.release(*V2)
    device = Bench(tmp_path, fleet)
    device.offer(first)
    device.updater.take(fleet.desired(second))
    while device.phase() != "probation":
        device.updater.run_once()
    device.die()

    for _ in range(4):
        device = Bench(tmp_path, fleet)
        device.die()

    device = Bench(tmp_path, fleet)
    assert device.phase() == "rolled_back"
    assert device.serving() == "1.0.0"
    assert "died 4 times" in device.state.update("digits").reason
    device.close()


def test_clean_stops_are_not_held_against_a_candidate(tmp_path, fleet):
    first, second = fleet.release(*V1), fleet.release(*V2)
    device = Bench(tmp_path, fleet)
    device.offer(first)
    device.updater.take(fleet.desired(second))
    while device.phase() != "probation":
        device.updater.run_once()
    device.close()

    for _ in range(6):
        device = Bench(tmp_path, fleet)
        assert device.phase() == "probation"
        device.close()


def test_a_rotten_active_model_is_replaced_by_the_previous_one_at_boot(tmp_path, fleet):
    first, second = fleet.release(*V1), fleet.release(*V2)
    device = Bench(tmp_path, fleet)
    device.offer(first)
    device.offer(second)
    device.close()
    digest = second.entry("model").sha256
    path = tmp_path / "blobs" / digest[:2] / digest
    path.write_bytes(b"\0" * path.stat().st_size)

    again = Bench(tmp_path, fleet)

    assert again.serving() == "1.0.0"
    assert again.phase() == "rolled_back"
    assert again.events()[-1].evidence == {"fallback": True}
    again.close()


def dies_at_every_start(tmp_path, fleet, times, **settings):
    """A device with 1.1.0 over 1.0.0 whose agent never lives for half a minute."""
    first, second = fleet.release(*V1), fleet.release(*V2)
    device = Bench(tmp_path, fleet)
    device.offer(first)
    device.offer(second)
    device.close()
    for _ in range(times):
        Bench(tmp_path, fleet, **settings).die()
    return Bench(tmp_path, fleet, **settings)


def test_power_that_flickers_leaves_the_model_innocent(tmp_path, fleet):
    device = dies_at_every_start(tmp_path, fleet, 3, boots=2)

    assert device.serving() == "1.1.0"
    assert device.phase() == "committed"
    device.close()


def test_a_model_that_also_fails_in_a_child_gives_way_after_a_few_starts(tmp_path, fleet):
    failing = {"boots": 2, "testing.launcher": ("false",)}

    device = dies_at_every_start(tmp_path, fleet, 2, **failing)

    assert device.serving() == "1.0.0"
    assert device.phase() == "rolled_back"
    device.close()


def test_a_launcher_that_fails_is_a_failure_of_the_try_not_of_the_model(tmp_path, fleet):
    device = Bench(tmp_path, fleet, **{"testing.launcher": ("false",)})

    device.offer(fleet.release(*V1))

    assert device.phase() == "failed"
    assert device.phases().count("failed") == 3
    device.close()


def test_it_serves_even_if_nothing_can_be_written_any_more(tmp_path, fleet):
    device = Bench(tmp_path, fleet)
    device.offer(fleet.release(*V1))
    device.close()
    state = open_state(tmp_path)
    for verb in ("INSERT", "UPDATE"):
        state.rows(
            f"CREATE TRIGGER full_{verb} BEFORE {verb} ON lines"
            " BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    state.close()

    again = Bench(tmp_path, fleet)

    assert again.serving() == "1.0.0"
    again.die()


def test_while_models_are_loaded_at_a_start_calls_wait_and_none_is_unknown(tmp_path, fleet):
    first = fleet.release(*V1)
    other = fleet.release("1.1.0.onnx", "1.0.0", 1, model="digits-two")
    device = Bench(tmp_path, fleet)
    device.offer(first, other)
    device.close()
    device = Bench(tmp_path, fleet)
    host = device.host
    ready = []

    for model in host.models():
        host.remove(model)
        host.expect(model)
    with ThreadPoolExecutor() as pool:
        calls = [pool.submit(device.serving, model) for model in ("digits", "digits-two")]
        ready.append(host.is_ready())
        device.updater.service.boot()
        versions = [call.result(30) for call in calls]
        ready.append(host.is_ready())

    assert versions == ["1.0.0", "1.0.0"]
    assert ready == [False, True]
    device.close()


def test_only_what_slots_need_is_kept(device, fleet):
    first, second, bad = fleet.release(*V1), fleet.release(*V2), fleet.release(*BAD)
    device.offer(first)
    device.offer(second)
    device.offer(bad)

    assert device.serving() == "1.1.0"
    needed = {second.digest, *(entry.sha256 for entry in second.shipped())}
    assert set(device.parts.store.digests()) == needed
    assert device.parts.store.partials() == ()


def test_two_models_are_updated_one_after_the_other(device, fleet):
    first = fleet.release(*V1)
    other = fleet.release("1.1.0.onnx", "1.0.0", 1, model="digits-two")

    device.offer(first, other)

    assert device.serving("digits") == "1.0.0"
    assert device.serving("digits-two") == "1.0.0"


def test_the_server_may_call_a_candidate_back_during_probation(device, fleet):
    first, second = fleet.release(*V1), fleet.release(*V2)
    device.offer(first)
    device.updater.take(fleet.desired(second))
    while device.phase() != "probation":
        device.updater.run_once()

    device.offer(first)

    assert device.serving() == "1.0.0"
    assert device.phase() == "rolled_back"


def test_a_person_may_roll_back_and_the_assignment_does_not_undo_it(device, fleet):
    first, second = fleet.release(*V1), fleet.release(*V2)
    device.offer(first)
    device.offer(second)

    version = device.updater.service.return_by_hand("digits")
    device.settle()

    assert version == "1.0.0"
    assert device.serving() == "1.0.0"
    assert device.events()[-1].evidence == {"by_hand": True}


def test_what_a_person_took_back_stays_back_whatever_was_refused_since(device, fleet):
    fleet.accept_digits()
    first, second, bad = fleet.release(*V1), fleet.release(*V2), fleet.release(*BAD)
    device.offer(first, rollout="1")
    device.offer(second, rollout="2")
    device.offer(bad, rollout="3")  # refused by the acceptance set

    device.updater.service.return_by_hand("digits")
    device.offer(second, rollout="3")

    assert device.serving() == "1.0.0"
    assert device.events()[-1].evidence == {"repeated": True}
