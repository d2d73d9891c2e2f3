import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from doubles import FAILING, RUNTIMES, SCORES, bundle, load, rows, wait_until

from edgec_agent.errors import (
    InferenceError,
    ModelLoadError,
    RequestError,
    UnavailableError,
    UnknownModelError,
)
from edgec_agent.host import ModelHost


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_model_answers_once_it_is_active(host, runtime):
    made = bundle(runtime=runtime, offset=1)
    serving = host.load(made.manifest, made.read)

    with pytest.raises(UnknownModelError):
        host.infer("double", {"x": rows()})
    previous = host.activate("double", serving)
    outputs, manifest = host.infer("double", {"x": rows(3)})

    assert previous is None
    assert manifest == made.manifest
    assert host.models() == ("double",)
    np.testing.assert_array_equal(outputs["y"], 2 * (rows(3) - 1))


def test_activating_returns_what_answered_before(host):
    first = load(host, "1.0.0")
    made = bundle("1.1.0", offset=5)
    second = host.load(made.manifest, made.read)

    assert host.activate("double", second) is first
    assert host.infer("double", {"x": rows()})[1].version == "1.1.0"
    assert host.activate("double", first) is second  # and back
    assert host.infer("double", {"x": rows()})[1].version == "1.0.0"
    assert host.swaps("double") == 3


def test_a_version_that_is_not_served_is_unknown(host):
    load(host, "1.0.0")

    assert host.infer("double", {"x": rows()}, "1.0.0")[1].version == "1.0.0"
    with pytest.raises(UnknownModelError, match=r"1\.0\.0, not 2\.0\.0"):
        host.infer("double", {"x": rows()}, "2.0.0")
    with pytest.raises(UnknownModelError, match="'other' is not served"):
        host.infer("other", {"x": rows()})


def test_two_models_do_not_disturb_each_other(host):
    load(host, "1.0.0", model="one")
    load(host, "3.0.0", model="two", runtime="litert", offset=2)

    assert host.models() == ("one", "two")
    np.testing.assert_array_equal(host.infer("one", {"x": rows()})[0]["y"], 2 * rows())
    np.testing.assert_array_equal(host.infer("two", {"x": rows()})[0]["y"], 2 * (rows() - 2))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_hundreds_of_swaps_under_load_fail_no_call_and_mix_no_versions(host, runtime):
    swaps, callers = 200, 3
    load(host, "1.0.0", runtime=runtime, offset=0)
    done = threading.Event()
    answered = dict.fromkeys(range(callers), 0)

    def call(caller: int) -> None:
        x = rows(2, seed=caller)
        while not done.is_set():
            outputs, manifest = host.infer("double", {"x": x})
            offset = int(manifest.version.split(".")[1])
            np.testing.assert_array_equal(outputs["y"], 2 * (x - offset))
            answered[caller] += 1

    with ThreadPoolExecutor(callers) as pool:
        calls = [pool.submit(call, caller) for caller in range(callers)]
        try:
            for number in range(1, swaps + 1):
                made = bundle(f"1.{number}.0", runtime=runtime, offset=number)
                serving = host.load(made.manifest, made.read)
                previous = host.activate("double", serving)
                assert host.retire(previous, wait_s=120)
        finally:
            done.set()
    for result in calls:
        result.result()  # raises what the caller raised

    assert all(count > 0 for count in answered.values())
    assert host.swaps("double") == swaps + 1


def test_a_retired_session_lives_until_its_last_call_has_ended(host):
    old = load(host, "1.0.0", offset=1)
    made = bundle("1.1.0", offset=2)

    with host.call("double") as call:
        host.activate("double", host.load(made.manifest, made.read))
        closed_early = host.retire(old, wait_s=0.05)
        outputs = call.run({"x": rows()})
        assert call.manifest.version == "1.0.0"

    assert not closed_early
    np.testing.assert_array_equal(outputs["y"], 2 * (rows() - 1))
    assert old.wait_closed(120)
    assert host.infer("double", {"x": rows()})[1].version == "1.1.0"


def test_what_is_in_service_cannot_be_retired_and_what_is_retired_cannot_load(host):
    first = load(host, "1.0.0")
    with pytest.raises(RuntimeError, match="activate another"):
        host.retire(first)
    assert host.infer("double", {"x": rows()})[1].version == "1.0.0"

    load(host, "1.1.0")
    assert host.retire(first, wait_s=120)
    with pytest.raises(RuntimeError, match="retired"):
        host.activate("double", first)
    assert host.infer("double", {"x": rows()})[1].version == "1.1.0"


def test_a_serving_cannot_answer_for_another_model(host):
    made = bundle(model="double")
    with pytest.raises(ValueError, match="expected a serving of other"):
        host.activate("other", host.load(made.manifest, made.read))
    assert host.models() == ()


def test_calls_wait_while_a_model_is_drained(host):
    old = load(host, "1.0.0")
    assert host.drain("double", wait_s=120)
    assert old.retired
    assert not host.is_ready()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(host.infer, "double", {"x": rows()})
        assert not waiting.done()
        load(host, "1.1.0")
        assert waiting.result(120)[1].version == "1.1.0"
    assert host.is_ready()


def test_a_call_does_not_wait_for_ever_for_a_drained_model():
    host = ModelHost(wait_s=0.05)
    load(host)
    host.drain("double")

    with pytest.raises(UnavailableError, match="being exchanged"):
        host.infer("double", {"x": rows()})
    assert host.remove("double") is None
    with pytest.raises(UnknownModelError):
        host.infer("double", {"x": rows()})


def test_a_hanging_call_is_seen_and_keeps_no_place_from_the_next_version():
    host = ModelHost(concurrency=1, wait_s=0.05)
    old = load(host, "1.0.0", runtime="litert")
    started, release = threading.Event(), threading.Event()

    def hang() -> None:
        with host.call("double"), old.turn(1.0):
            started.set()
            release.wait(120)

    thread = threading.Thread(target=hang)
    thread.start()
    assert started.wait(120)
    with pytest.raises(UnavailableError, match="busy"):
        host.infer("double", {"x": rows()})
    assert old.oldest_call_s() > 0
    load(host, "1.1.0", runtime="litert")
    assert host.infer("double", {"x": rows()})[1].version == "1.1.0"
    release.set()
    thread.join()
    assert old.oldest_call_s() == 0
    host.close()


def test_errors_say_whose_fault_it_was_and_are_counted(host):
    load(host, postprocessing=[{"op": "softmax"}])

    host.infer("double", {"x": rows(3)})
    with pytest.raises(RequestError, match="'x'"):
        host.infer("double", {"x": rows().astype(np.int32)})
    with pytest.raises(RequestError, match="'z'"):
        host.infer("double", {"x": rows(), "z": rows()})
    with pytest.raises(InferenceError, match="'double' failed"):
        host.infer("double", {"x": np.full((1, 4), FAILING)})

    window = host.stats("double")
    assert (window.requests, window.failed, window.refused, window.rows) == (4, 1, 2, 3)
    (totals,) = host.totals()
    assert totals.failures == {"input": 2, "model": 1}
    assert totals.answered == 1


def test_bytes_that_are_no_model_are_refused_and_change_nothing(host):
    load(host, "1.0.0")
    made = bundle("1.1.0")

    with pytest.raises(ModelLoadError, match=r"double 1\.1\.0 cannot be loaded"):
        host.load(made.manifest, {"model": b"\x00" * 64, "labels": b""}.__getitem__)

    assert host.infer("double", {"x": rows()})[1].version == "1.0.0"


def test_a_model_that_fails_on_its_first_run_is_refused(host):
    scores = SCORES.__class__("y", "float32", (-1, 5), "scores")  # the model gives four
    made = bundle(y=scores)

    with pytest.raises(ModelLoadError, match="fails its first run"):
        host.load(made.manifest, made.read)


def test_windows_belong_to_one_manifest_each_and_end_when_taken(host):
    first = load(host, "1.0.0", watched=True)
    host.infer("double", {"x": rows(2)})
    second = load(host, "1.1.0", watched=True)
    host.infer("double", {"x": rows(1)})

    windows = host.take_windows()
    assert [w.manifest for w in windows] == [first.digest, second.digest]
    assert [w.rows for w in windows] == [2, 1]
    assert [w.histograms["class"].total for w in windows] == [2, 1]
    assert windows[0].latency_ms.p50 > 0
    assert windows[0].start <= windows[0].end
    assert host.take_windows() == ()
    assert host.stats("double").requests == 0
    assert sum(t.rows for t in host.totals()) == 3


def test_histograms_count_what_the_baseline_names(host):
    load(host, watched=True)
    x = np.array([[9, 0, 0, 0], [0, 0, 0, -9]], np.float32)  # classes 0 and 0; means 2.25, -2.25

    host.infer("double", {"x": x})

    found = host.stats("double").histograms
    assert found["input.x.mean"].counts == (1, 1)
    assert found["class"].counts == (2, 0, 0, 0)


def test_closing_the_host_closes_every_session():
    host = ModelHost()
    servings = [load(host, model=name) for name in ("one", "two")]

    host.close()

    assert host.models() == ()
    wait_until(lambda: all(serving.wait_closed(0) for serving in servings))
