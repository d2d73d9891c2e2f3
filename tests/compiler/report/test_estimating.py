"""Latency estimates: what they are made of, worked by hand, and laws that any machine obeys."""

from dataclasses import replace

import pytest

from edgec_compiler.estimating import Estimate, estimate_latency
from edgec_compiler.mapping.checking import check
from edgec_compiler.mapping.costs import costs_of, live_bytes
from edgec_compiler.mapping.graph import ModelGraph, Operator, Tensor
from edgec_hardware_profiles import Profile, load, names


def convolution(dtype: str = "int8", side: int = 8) -> ModelGraph:
    """Return a 3x3 convolution from 4 to 16 channels and a RELU behind it."""
    image = (1, side, side, 16)
    tensors = (
        Tensor("x", dtype, (1, side, side, 4), False),
        Tensor("w", dtype, (16, 3, 3, 4), True),
        Tensor("y", dtype, image, False),
        Tensor("z", dtype, image, False),
    )
    return ModelGraph(
        "tflite",
        tensors,
        (
            Operator(0, "CONV_2D", 3, (0, 1), (2,)),
            Operator(1, "RELU", 2, (2,), (3,)),
        ),
        (0,),
        (3,),
    )


def estimate(graph: ModelGraph, profile: Profile, threads: int = 1) -> Estimate:
    found = estimate_latency(graph, profile, check(graph, profile), threads=threads)
    assert found is not None
    return found


def rated(**rates: float) -> Profile:
    """Return a CPU with these rates and no others."""
    return replace(load("rpi4"), rates=rates)


def test_a_convolution_costs_its_multiply_accumulates_and_its_bytes() -> None:
    conv, relu = costs_of(convolution())

    assert (conv.kind, conv.dtype, conv.macs) == ("dense", "int8", 8 * 8 * 16 * 3 * 3 * 4)
    assert conv.weight_bytes == 16 * 3 * 3 * 4
    assert conv.moved_bytes == 8 * 8 * 4 + 16 * 3 * 3 * 4 + 8 * 8 * 16
    assert (relu.kind, relu.macs) == ("element", 8 * 8 * 16)


def test_an_operator_takes_the_longer_of_arithmetic_and_traffic() -> None:
    busy = estimate(convolution(), rated(int8_macs_per_s=1e6, bytes_per_s=1e12, dense_share=0.5))
    starved = estimate(convolution(), rated(int8_macs_per_s=1e12, bytes_per_s=1e6))

    assert busy.ops[0].bound == "compute"
    assert busy.ops[0].ms == pytest.approx(36864 / (1e6 * 0.5) * 1e3)
    assert starved.ops[0].bound == "memory"
    assert starved.ops[0].ms == pytest.approx((256 + 576 + 1024) / 1e6 * 1e3)


def test_what_lives_at_once_is_counted_while_it_lives() -> None:
    assert live_bytes(convolution()) == (8 * 8 * 4 + 1024, 1024 + 1024)


def test_a_pair_of_q_and_dq_is_an_integer_operator() -> None:
    tensors = (
        Tensor("x", "float32", (1, 4), False),
        Tensor("qx", "int8", (1, 4), False),
        Tensor("dx", "float32", (1, 4), False),
        Tensor("qw", "int8", (4, 8), True),
        Tensor("dw", "float32", (4, 8), False),
        Tensor("y", "float32", (1, 8), False),
    )
    graph = ModelGraph(
        "onnx",
        tensors,
        (
            Operator(0, "QuantizeLinear", None, (0,), (1,)),
            Operator(1, "DequantizeLinear", None, (1,), (2,)),
            Operator(2, "DequantizeLinear", None, (3,), (4,)),
            Operator(3, "MatMul", None, (2, 4), (5,)),
        ),
        (0,),
        (5,),
    )

    *pairs, product = costs_of(graph)

    assert [one.kind for one in pairs] == ["free"] * 3
    assert (product.dtype, product.macs, product.weight_bytes) == ("int8", 32, 32)


def test_weights_that_do_not_fit_the_accelerator_cross_the_link_every_time() -> None:
    coral = load("coral-edgetpu")
    roomy = estimate(convolution(), coral)
    small = estimate(convolution(), replace(coral, accelerator_memory_bytes=76))

    assert {one.on for one in roomy.ops} == {"npu"}
    link = coral.rates["link_bytes_per_s"]
    assert small.transfer_ms - roomy.transfer_ms == pytest.approx(500 / link * 1e3)


@pytest.mark.parametrize("name", names())
def test_every_target_has_the_rates_that_its_own_precision_needs(name: str) -> None:
    profile = load(name)
    dtype = {"int8": "int8", "fp16": "float16", "fp32": "float32"}[profile.default_precision]

    small, large = (estimate(convolution(dtype, side), profile) for side in (8, 64))

    assert 0 < small.ms < large.ms


def test_threads_help_up_to_the_cores_that_there_are() -> None:
    graph, profile = convolution(side=64), rated(int8_macs_per_s=1e9, cores=4)

    assert estimate(graph, profile, 2).ms == pytest.approx(estimate(graph, profile).ms / 2)
    assert estimate(graph, profile, 9).ms == pytest.approx(estimate(graph, profile).ms / 4)


def test_a_profile_without_a_rate_gives_no_estimate() -> None:
    graph, profile = convolution("float32"), rated(int8_macs_per_s=1e9)

    assert estimate_latency(graph, profile, check(graph, profile)) is None
