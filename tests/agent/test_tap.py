import threading
from dataclasses import replace

import numpy as np
import pytest
from doubles import FAILING, INFER, RUNTIMES, X, bundle, rows, wait_until
from wire import Wire, infer_body

from edgec_agent.errors import InferenceError, RequestError, UnknownModelError
from edgec_agent.host import ModelHost
from edgec_agent.server import serve
from edgec_agent.serving import Serving
from edgec_agent.tap import Tap

OTHER_CLASS = [100.0, 0.0, 0.0, 0.0]  # taken from the first score: never the first class


def aside(host: ModelHost, version: str, **options) -> Serving:
    made = bundle(version, **options)
    return host.load(made.manifest, made.read)


def first_class(count: int = 1) -> np.ndarray:
    return np.tile(np.array([9, 1, 2, 3], np.float32), (count, 1))


def judged(tap: Tap, samples: int) -> None:
    wait_until(lambda: tap.snapshot().samples >= samples)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_two_models_that_say_the_same_agree(host, runtime):
    host.activate("double", aside(host, "1.0.0"))
    tap = host.start_tap("double", aside(host, "1.1.0", runtime=runtime, offset=0.25))

    for count in (1, 3):
        host.infer("double", {"x": first_class(count)})
    judged(tap, 4)

    report = tap.stop()
    assert (report.samples, report.agreed, report.agreement) == (4, 4, 1.0)
    assert (report.primary_errors, report.other_errors, report.dropped) == (0, 0, 0)
    assert report.primary_p95_ms > 0
    assert report.other_p95_ms > 0
    assert report.stalled_s == 0


def test_a_model_that_says_something_else_disagrees(host):
    host.activate("double", aside(host, "1.0.0"))
    tap = host.start_tap("double", aside(host, "1.1.0", offset=OTHER_CLASS))

    host.infer("double", {"x": first_class(3)})
    judged(tap, 3)

    assert tap.stop().agreed == 0


def test_a_row_may_agree_where_another_does_not(host):
    host.activate("double", aside(host, "1.0.0"))
    tap = host.start_tap("double", aside(host, "1.1.0", offset=[4.0, 0.0, 0.0, 0.0]))

    host.infer("double", {"x": np.array([[9, 0, 0, 0], [3, 2, 0, 0]], np.float32)})
    judged(tap, 2)

    assert tap.stop().agreed == 1


def test_a_model_that_refuses_what_the_other_answers_is_in_error(host):
    host.activate("double", aside(host, "1.0.0"))
    integers = replace(X, dtype="int32")
    tap = host.start_tap("double", aside(host, "1.1.0", x=integers))

    host.infer("double", {"x": first_class(2)})
    judged(tap, 2)

    report = tap.stop()
    assert (report.samples, report.agreed) == (2, 0)
    assert (report.primary_errors, report.other_errors) == (0, 2)


def test_calls_that_both_refuse_are_no_disagreement(host):
    host.activate("double", aside(host, "1.0.0"))
    tap = host.start_tap("double", aside(host, "1.1.0"))

    with pytest.raises(RequestError):
        host.infer("double", {"x": first_class(2).astype(np.int64)})
    judged(tap, 2)

    report = tap.stop()
    assert (report.samples, report.agreed) == (2, 2)
    assert (report.primary_errors, report.other_errors) == (2, 2)


def test_a_primary_that_fails_where_the_other_answers_is_in_error(host):
    softmax = [{"op": "softmax"}]
    host.activate("double", aside(host, "1.1.0", postprocessing=softmax))
    smaller = [{"op": "scale", "std": 4.0}]  # what is too large for the one is not for the other
    other = aside(host, "1.0.0", preprocessing=smaller, postprocessing=softmax)
    tap = host.start_tap("double", other)

    with pytest.raises(InferenceError):
        host.infer("double", {"x": np.full((1, 4), FAILING)})
    judged(tap, 1)

    report = tap.stop()
    assert (report.primary_errors, report.other_errors, report.agreed) == (1, 0, 0)


def test_calls_are_dropped_not_delayed_when_there_is_no_time_to_judge(host, monkeypatch):
    host.activate("double", aside(host, "1.0.0"))
    other = aside(host, "1.1.0")
    may_run, run = threading.Event(), other.pipeline.infer

    def wait_and_run(inputs):
        assert may_run.wait(120)
        return run(inputs)

    monkeypatch.setattr(other.pipeline, "infer", wait_and_run)
    tap = host.start_tap("double", other, capacity=1)

    for _ in range(6):
        host.infer("double", {"x": first_class()})

    assert tap.snapshot().dropped >= 4  # of the others, one is under way and one waits at most
    assert host.stats("double").requests == 6
    may_run.set()
    tap.stop(timeout_s=120)


def test_calls_that_another_serving_answers_are_not_judged(host):
    first, second = aside(host, "1.0.0"), aside(host, "1.1.0", offset=OTHER_CLASS)
    host.activate("double", first)
    tap = host.start_tap("double", second)

    host.activate("double", second)
    host.infer("double", {"x": first_class()})
    host.activate("double", first)
    host.infer("double", {"x": first_class(2)})
    judged(tap, 2)

    assert tap.stop().samples == 2


def test_the_previous_model_can_be_the_yardstick_of_the_new_one(host):
    old, new = aside(host, "1.0.0"), aside(host, "2.0.0", offset=OTHER_CLASS)
    host.activate("double", old)
    previous = host.activate("double", new)
    tap = host.start_tap("double", previous)

    host.infer("double", {"x": first_class(5)})
    judged(tap, 5)

    assert tap.stop().agreement == 0
    host.activate("double", previous)
    assert host.infer("double", {"x": first_class()})[1].version == "1.0.0"


def test_a_caller_may_write_into_its_arrays_once_it_has_its_answer(host):
    host.activate("double", aside(host, "1.0.0"))
    tap = host.start_tap("double", aside(host, "1.1.0"))
    x = first_class(2)

    outputs, _ = host.infer("double", {"x": x})
    x[:] = outputs["y"][:] = np.array([0, 0, 0, 99], np.float32)
    judged(tap, 2)

    assert tap.stop().agreed == 2


def test_neither_side_is_closed_before_the_comparison_ends(host):
    old, new = aside(host, "1.0.0"), aside(host, "1.1.0")
    host.activate("double", old)
    tap = host.start_tap("double", new)
    host.activate("double", aside(host, "1.2.0"))

    assert not host.retire(old, wait_s=0.05)
    assert not host.retire(new, wait_s=0.05)
    tap.stop()

    assert old.wait_closed(120)
    assert new.wait_closed(120)


def test_a_stopped_tap_sees_nothing_more(host):
    host.activate("double", aside(host, "1.0.0"))
    tap = host.start_tap("double", aside(host, "1.1.0"))
    assert host.taps("double") == (tap,)

    before = tap.stop()
    host.infer("double", {"x": first_class()})

    assert host.taps("double") == ()
    assert tap.stop() == before
    assert before.agreement is None


def test_a_tap_needs_two_living_servings(host):
    with pytest.raises(UnknownModelError):
        host.start_tap("double", aside(host, "1.1.0"))
    host.activate("double", aside(host, "1.0.0"))
    closed = aside(host, "1.1.0")
    host.retire(closed, wait_s=120)

    with pytest.raises(RuntimeError, match="retired"):
        host.start_tap("double", closed)
    assert host.taps("double") == ()
    assert host.infer("double", {"x": rows()})[1].version == "1.0.0"


def test_a_release_that_takes_no_request_any_more_is_in_error_over_http(host):
    old = aside(host, "1.0.0")
    host.activate("double", old)
    integers = replace(X, dtype="int32")
    host.activate("double", aside(host, "2.0.0", x=integers))
    tap = host.start_tap("double", old)
    server = serve(host, "127.0.0.1:0")

    with Wire(server.address) as wire:
        for _ in range(3):  # as programs asked, and were answered, before the update
            assert wire.request("POST", INFER, infer_body(first_class(2))).status == 400
        assert wire.request("POST", INFER, b"nonsense").status == 400  # never right: not judged
    judged(tap, 6)
    server.close()

    report = tap.stop()
    assert (report.samples, report.agreed) == (6, 0)
    assert (report.primary_errors, report.other_errors) == (6, 0)


def test_a_comparison_is_no_call_in_flight(host):
    old, new = aside(host, "1.0.0"), aside(host, "1.1.0")
    host.activate("double", old)
    tap = host.start_tap("double", new)
    host.infer("double", {"x": first_class()})
    judged(tap, 1)

    assert (old.in_flight, new.in_flight) == (0, 0)
    assert (old.oldest_call_s(), new.oldest_call_s()) == (0, 0)
    tap.stop()
