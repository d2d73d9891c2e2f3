import math

import numpy as np
import pytest
from doubles import FAILING, INFER, load, rows
from hypothesis import given
from hypothesis import strategies as st
from wire import Wire, infer_body

from edgec_agent.metrics import HttpCounts, render
from edgec_agent.server import serve
from edgec_agent.stats import LatencySketch


def samples(text: str) -> dict[tuple[str, tuple], float]:
    """Return {(name, sorted labels): value}, read by Prometheus's own client where there is one."""
    parser = pytest.importorskip("prometheus_client.parser")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: dict, name: str, **labels: str) -> float:
    """Return the one sample of `name` that has at least `labels`."""
    (one,) = [
        number
        for (sample, own), number in found.items()
        if sample == name and labels.items() <= dict(own).items()
    ]
    return one


def test_prometheus_reads_what_was_served_and_what_failed(host):
    serving = load(host, "1.0.0", postprocessing=[{"op": "softmax"}])
    server = serve(host, "127.0.0.1:0")

    with Wire(server.address) as wire:
        for count in (1, 2, 3):
            wire.request("POST", INFER, infer_body(rows(count)))
        wire.request("POST", INFER, b"{}")
        wire.request("POST", INFER, infer_body(np.full((1, 4), FAILING)))
        wire.request("GET", "/nowhere")
        answer = wire.request("GET", "/metrics")
    server.close()

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(answer.body.decode())
    assert all(name.startswith("edgec_") for name, _ in found)
    of = {"model": "double", "version": "1.0.0", "manifest": serving.digest[:12]}
    assert value(found, "edgec_inference_request_success_total", **of) == 3
    assert value(found, "edgec_inference_count_total", **of) == 6
    assert value(found, "edgec_inference_request_failure_total", reason="input", **of) == 1
    assert value(found, "edgec_inference_request_failure_total", reason="model", **of) == 1
    assert value(found, "edgec_inference_duration_seconds_count", **of) == 3
    assert value(found, "edgec_inference_duration_seconds_sum", **of) > 0
    assert 0 < value(found, "edgec_inference_duration_seconds", quantile="0.95", **of) < 10
    assert value(found, "edgec_model_active", **of) == 1
    assert value(found, "edgec_http_responses_total", code="200") == 3
    assert value(found, "edgec_http_responses_total", code="400") == 1
    assert value(found, "edgec_http_responses_total", code="404") == 1
    assert value(found, "edgec_http_connections") == 1
    assert value(found, "edgec_resident_memory_bytes") > 1 << 20


def test_counts_of_every_version_stay_apart_and_the_active_one_is_named(host):
    load(host, "1.0.0")
    host.infer("double", {"x": rows()})
    load(host, "1.1.0")
    host.infer("double", {"x": rows()})
    host.infer("double", {"x": rows()})
    tap = host.start_tap("double", load(host, "9.9.9", model="other"))

    found = samples(render(host, HttpCounts()).decode())
    tap.stop()

    assert value(found, "edgec_inference_request_success_total", version="1.0.0") == 1
    assert value(found, "edgec_inference_request_success_total", version="1.1.0") == 2
    assert value(found, "edgec_model_active", model="double") == 1
    assert value(found, "edgec_model_swaps_total", model="double") == 2
    assert value(found, "edgec_tap_rows", model="double", other="9.9.9") == 0


def test_an_agent_without_models_has_metrics_too(host):
    found = samples(render(host, HttpCounts()).decode())
    assert value(found, "edgec_build_info") == 1


def test_counts_are_kept_for_the_last_few_versions_only(host):
    for number in range(20):
        load(host, f"1.{number}.0")
        host.infer("double", {"x": rows()})

    versions = [totals.version for totals in host.totals()]

    assert versions == [f"1.{number}.0" for number in range(12, 20)]


@given(st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_is_right_to_within_two_percent(durations, q):
    sketch = LatencySketch()
    for ms in durations:
        sketch.add(ms)

    exact = sorted(durations)[max(1, math.ceil(q * len(durations))) - 1]

    assert sketch.quantile(q) == pytest.approx(exact, rel=0.021)
    assert sketch.count == len(durations)


@given(st.lists(st.floats(0, 1e12)), st.lists(st.floats(0, 1e12)))
def test_two_sketches_merge_to_one_of_both(left, right):
    one, two, both = LatencySketch(), LatencySketch(), LatencySketch()
    for ms in left:
        one.add(ms)
        both.add(ms)
    for ms in right:
        two.add(ms)
        both.add(ms)

    one.merge(two)

    assert [one.quantile(q) for q in (0, 0.5, 1)] == [both.quantile(q) for q in (0, 0.5, 1)]
    assert one.count == both.count
