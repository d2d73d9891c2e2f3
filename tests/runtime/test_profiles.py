"""Hardware profiles: built in, others by path, and malformed ones refused by their key."""

from pathlib import Path

import pytest

from edgec_hardware_profiles import (
    Condition,
    Host,
    MalformedProfileError,
    UnknownProfileError,
    load,
    matching,
    names,
    this_host,
)

GOOD = """
schema = 1
name = "my-board"
title = "A board of mine"
arch = "aarch64"

[runtime]
name = "litert"
min_version = "2.3.0"

[model]
format = "tflite"
formats = ["tflite"]
precisions = ["int8", "fp32"]
default_precision = "int8"
input_layout = "NHWC"

[memory]
device_bytes = 1000000

[sources]
"runtime.min_version" = "measured"
"memory.device_bytes" = "data sheet"

[rates]
macs_per_s = 1e9

[mapping]
on = "npu"
regions = "one"
dtypes = ["int8"]
operators = ["RELU"]

[mapping.reasons]
operator = "no such thing"

[ops.CONV_2D]
versions = [1, 3]
require = [{ fact = "stride_h", max = 3, only_if = { fact = "padding", one_of = ["same"] } }]

[tools.acme]
program = "acme"
steps = [["acme", "--in", "{model}"]]
result = "{stem}.acme"
format = "acme"
"""
GOOD = GOOD.replace("[sources]", '[sources]\n"rates.macs_per_s" = "data sheet"')


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_all_targets_of_the_design_are_there() -> None:
    assert set(names()) == {
        *("coral-edgetpu", "cortex-m7", "ethos-u55-128", "ethos-u55-256", "ethos-u65-512"),
        *("ethos-u85-256", "generic-arm64", "generic-x86_64", "generic-x86_64-tflite"),
        *("hailo-8", "imx8mp", "jetson-nano", "jetson-orin-nano", "qcs6490", "rk3588"),
        *("rpi-zero2w", "rpi4", "rpi5"),
    }


@pytest.mark.parametrize("name", names())
def test_an_accelerator_has_a_table_of_operators_with_its_source(name: str) -> None:
    profile = load(name)

    assert (profile.support is not None) == (profile.accelerator is not None or name == "cortex-m7")
    if profile.support is not None:
        assert profile.support.source
        assert len(profile.support.operators) > 20
    assert all(tool.source for tool in profile.tools)


@pytest.mark.parametrize("name", names())
def test_every_built_in_profile_loads_and_is_consistent(name: str) -> None:
    profile = load(name)

    assert profile.name == name
    assert profile.format in profile.formats
    assert profile.default_precision in profile.precisions
    assert profile.title


@pytest.mark.parametrize("name", names())
def test_every_built_in_profile_is_documented(name: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "profiles.md").read_text()

    assert f"`{name}`" in text


def test_what_distinguishes_the_targets() -> None:
    assert load("coral-edgetpu").full_integer
    assert load("coral-edgetpu").precisions == ("int8",)
    assert load("generic-x86_64").quantization.reduce_range
    assert load("generic-x86_64").quantization.judged == "serving"
    assert not load("generic-arm64").quantization.reduce_range
    assert load("generic-arm64").quantization.judged == "exact"
    assert load("jetson-orin-nano").quantization.qdq_style == "tensorrt"
    assert load("jetson-orin-nano").runtime.delegate == "tensorrt"
    assert (load("rpi4").format, load("rpi4").input_layout) == ("tflite", "NHWC")


def test_a_profile_of_ones_own_is_loaded_by_path(tmp_path: Path) -> None:
    profile = load(write(tmp_path, GOOD))

    assert (profile.name, profile.memory_bytes) == ("my-board", 1_000_000)
    assert profile.runtime.delegate == "cpu"
    assert profile.rates == {"macs_per_s": 1e9}
    support = profile.support
    assert support is not None
    assert (support.on, support.regions, support.dtypes) == ("npu", "one", ("int8",))
    assert support.reasons["operator"] == "no such thing"
    assert set(support.operators) == {"RELU", "CONV_2D"}
    convolution = support.operators["CONV_2D"]
    assert convolution.versions == (1, 3)
    assert convolution.require == (
        Condition("stride_h", max=3, only_if=Condition("padding", one_of=("same",))),
    )
    (tool,) = profile.tools
    assert (tool.program, tool.steps) == ("acme", (("acme", "--in", "{model}"),))


def test_operators_can_be_those_of_another_profile(tmp_path: Path) -> None:
    text = GOOD.replace('operators = ["RELU"]', 'ops_of = "ethos-u55-128"')

    profile = load(write(tmp_path, text))

    assert profile.support is not None
    assert profile.support.operators["CONV_2D"].versions == (1, 3)  # its own goes first
    assert "SOFTMAX" in profile.support.operators


BAD = {
    "not TOML": ("= 1", "not TOML"),
    "another schema": (GOOD.replace("schema = 1", "schema = 2"), "schema: expected 1, got 2"),
    "no title": (
        GOOD.replace('title = "A board of mine"', ""),
        "title: missing; expected a string",
    ),
    "an unknown key": (GOOD.replace("schema = 1", "schema = 1\ncolour = 1"), "colour: unknown key"),
    "an unknown key inside": (
        GOOD.replace("[memory]", "[memory]\nkind = 1"),
        "memory.kind: unknown key; known here: accelerator_bytes, device_bytes",
    ),
    "a wrong kind": (GOOD.replace("1000000", '"1 MB"'), "memory.device_bytes: expected an integer"),
    "true is no number": (GOOD.replace("1000000", "true"), "device_bytes: expected an integer"),
    "no memory": (GOOD.replace("1000000", "0"), "memory.device_bytes: expected a number above 0"),
    "a bad name": (GOOD.replace("my-board", "My Board"), "name: expected [a-z0-9]"),
    "an unknown runtime": (
        GOOD[: GOOD.index("[tools.acme]")].replace('"litert"', '"tvm"'),
        "runtime.name: expected one of litert, onnxruntime, tflite-micro, or a vendor's",
    ),
    "a runtime that cannot run it": (
        GOOD.replace('"litert"', '"onnxruntime"'),
        "runtime.name: onnxruntime runs onnx, not tflite",
    ),
    "a default that is not offered": (
        GOOD.replace('default_precision = "int8"', 'default_precision = "int4"'),
        "model.default_precision: expected one of int8, fp32, got 'int4'",
    ),
    "a precision twice": (GOOD.replace('"int8", "fp32"', '"int8", "int8"'), "model.precisions: "),
    "a figure without a source": (
        GOOD.replace('"memory.device_bytes" = "data sheet"', ""),
        'sources: "memory.device_bytes" has a value but no source',
    ),
    "full integer of floats": (
        GOOD.replace(
            'precisions = ["int8", "fp32"]', 'precisions = ["fp32"]\nfull_integer = true'
        ).replace('default_precision = "int8"', 'default_precision = "fp32"'),
        "model.full_integer: needs an integer precision",
    ),
    "a version of words": (GOOD.replace("2.3.0", "newest"), "runtime.min_version: expected"),
    "a table that is none": (GOOD.replace("[ops.CONV_2D]", "[[ops]]"), "ops: expected a table"),
    "operators without a place": (
        GOOD[: GOOD.index("[mapping]")] + GOOD[GOOD.index("[ops.CONV_2D]") :],
        "mapping: missing; [ops] needs a [mapping]",
    ),
    "a place that is none": (GOOD.replace('on = "npu"', 'on = "tpu"'), "mapping.on: expected one"),
    "a condition that compares nothing": (
        GOOD.replace("max = 3, ", ""),
        "ops.CONV_2D.require[0].fact: expected a comparison",
    ),
    "a condition with an unknown word": (
        GOOD.replace("max = 3", "maximum = 3"),
        "ops.CONV_2D.require[0].maximum: unknown key",
    ),
    "versions the wrong way round": (
        GOOD.replace("[1, 3]", "[3, 1]"),
        "ops.CONV_2D.versions: expected [first, last]",
    ),
    "a reason for nothing": (
        GOOD.replace("operator = ", "colour = "),
        "mapping.reasons.colour: expected one of operator, dtype",
    ),
    "operators of nobody": (
        GOOD.replace('operators = ["RELU"]', 'ops_of = "rpi9"'),
        "mapping.ops_of: expected another built-in profile",
    ),
    "a rate without a source": (
        GOOD.replace('"rates.macs_per_s" = "data sheet"', ""),
        'sources: "rates.macs_per_s" has a value but no source',
    ),
    "a rate of nothing": (GOOD.replace("1e9", "0"), "rates.macs_per_s: expected a number above 0"),
    "a tool without steps": (
        GOOD.replace('steps = [["acme", "--in", "{model}"]]', ""),
        "tools.acme.program: a command needs program, steps, result and format",
    ),
    "a tool that asks for the unknown": (
        GOOD.replace("{model}", "{home}"),
        "tools.acme.steps: unknown {home}; known: model, out",
    ),
    "a result elsewhere": (
        GOOD.replace("{stem}.acme", "../x.acme"),
        "tools.acme.result: expected a plain file name",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_a_malformed_profile_is_refused_by_file_and_key(
    tmp_path: Path, text: str, message: str
) -> None:
    path = write(tmp_path, text)

    with pytest.raises(MalformedProfileError) as caught:
        load(path)

    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe")

    with pytest.raises(MalformedProfileError, match="not UTF-8"):
        load(path)


@pytest.mark.parametrize("name", ["rpi5000", "", "../rpi4"])
def test_an_unknown_target_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownProfileError, match=r"expected the path of a \.toml file or one of"):
        load(name)


def test_a_missing_file_of_a_target_is_named() -> None:
    with pytest.raises(UnknownProfileError, match=r"^/no/such/file\.toml: no such file"):
        load("/no/such/file.toml")


def test_a_host_matches_boards_before_architectures() -> None:
    pi = Host("aarch64", "Raspberry Pi 4 Model B Rev 1.5")
    pc_with_coral = Host("x86_64", "", usb=frozenset({"18d1:9302"}))
    jetson = Host("aarch64", "NVIDIA Jetson Orin Nano Developer Kit")

    assert matching(pi) == ("rpi4", "generic-arm64")
    assert matching(pc_with_coral) == ("coral-edgetpu", "generic-x86_64", "generic-x86_64-tflite")
    assert matching(jetson) == ("jetson-orin-nano", "generic-arm64")
    assert matching(Host("riscv64", "")) == ()


def test_the_machine_is_read_from_the_kernel(tmp_path: Path) -> None:
    model = tmp_path / "proc" / "device-tree" / "model"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"Raspberry Pi 4 Model B Rev 1.1\0")
    usb = tmp_path / "sys" / "bus" / "usb" / "devices" / "1-1"
    usb.mkdir(parents=True)
    (usb / "idVendor").write_text("1a6e\n")
    (usb / "idProduct").write_text("089a\n")
    pci = tmp_path / "sys" / "bus" / "pci" / "devices" / "0000:01:00.0"
    pci.mkdir(parents=True)
    (pci / "vendor").write_text("0x1AC1\n")
    (pci / "device").write_text("0x089a\n")

    host = this_host(tmp_path)

    assert host.board == "Raspberry Pi 4 Model B Rev 1.1"
    assert host.usb == {"1a6e:089a"}
    assert host.pci == {"1ac1:089a"}
