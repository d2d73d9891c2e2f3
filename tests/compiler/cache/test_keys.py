"""Keys: whatever has a say in a bundle changes them, and what cannot be known has none."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgec_compiler.cache import bundles, keys
from edgec_compiler.cache.store import Store
from edgec_compiler.compress.wanted import Wanted
from edgec_compiler.options import CompileOptions
from edgec_hardware_profiles import load

PROFILE = """
schema = 1
name = "mine"
title = "Mine"
arch = "any"
[runtime]
name = "litert"
min_version = "2.3.0"
[model]
format = "tflite"
formats = ["tflite"]
precisions = ["int8", "fp32"]
default_precision = "int8"
input_layout = "NHWC"
[sources]
"runtime.min_version" = "a test"
"""


@pytest.fixture
def options(tmp_path: Path) -> CompileOptions:
    """Options of a run that uses every input that there can be."""
    weights = numpy_helper.from_array(np.ones(4, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(
        model,
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.bin",
        size_threshold=0,
    )
    np.savez(tmp_path / "c.npz", inputs=np.zeros((2, 4), np.float32))
    for folder, name in (("e/cat", "1.png"), ("e/dog", "2.png"), ("base", "manifest.json")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).write_bytes(name.encode())
    (tmp_path / "s.toml").write_text("")
    (tmp_path / "l.txt").write_text("cat\ndog\n")
    (tmp_path / "p.toml").write_text(PROFILE)
    return CompileOptions(
        model=str(tmp_path / "m.onnx"),
        targets=(str(tmp_path / "p.toml"),),
        out="out",
        calibration=str(tmp_path / "c.npz"),
        evaluation=str(tmp_path / "e"),
        preprocessing=str(tmp_path / "s.toml"),
        labels=str(tmp_path / "l.txt"),
        delta_base=str(tmp_path / "base"),
    )


def _key(options: CompileOptions) -> str | None:
    parts = bundles.snapshot(options, ["m.bin"])
    return None if parts is None else bundles.bundle_key(parts, load(options.targets[0]), "tflite")


def _append(name: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        with (folder / name).open("ab") as stream:
            stream.write(b"\n")

    return act


def _rename(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: (folder / old).rename(folder / new) and None


CHANGES: dict[str, Callable[[Path], None]] = {
    "the model": _append("m.onnx"),
    "its external data": lambda folder: (folder / "m.bin").write_bytes(bytes(16)) and None,
    "the calibration data": _append("c.npz"),
    "an image": _append("e/cat/1.png"),
    "an image's name": _rename("e/cat/1.png", "e/cat/3.png"),
    "an image's class": _rename("e/cat/1.png", "e/dog/1.png"),
    "an empty class": lambda folder: (folder / "e" / "axolotl").mkdir(),
    "the steps": _append("s.toml"),
    "the labels": _append("l.txt"),
    "the deployed bundle": _append("base/manifest.json"),
    "the user's own profile": lambda folder: (
        (folder / "p.toml").write_text(PROFILE.replace('"fp32"]', '"fp16"]')) and None
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_any_input_changes_the_key(
    options: CompileOptions, tmp_path: Path, what: str
) -> None:
    before = _key(options)
    assert before is not None
    assert before == _key(options)

    CHANGES[what](tmp_path)

    assert _key(options) not in (before, None)


OPTIONS = {
    "format": "onnx",
    "name": "other",
    "version": "0.2.0",
    "release": 2,
    "shapes": ("x=1,4",),
    "precision": "fp32",
    "max_accuracy_drop": 0.02,
    "delta_budget": 2.0,
    "seed": 1,
    "float_layers": ("CONV_2D:0",),
    "calibration_method": "mse",
    "equalise": True,
    "bias_correction": True,
    "optimize_for": "size",
    "max_candidates": 3,
    "compress": Wanted(prune=0.5),
}


@pytest.mark.parametrize("name", sorted(bundles.VALUES))
def test_a_change_of_any_option_changes_the_key(options: CompileOptions, name: str) -> None:
    assert _key(replace(options, **{name: OPTIONS[name]})) not in (_key(options), None)


def test_every_option_is_sorted_in() -> None:
    sorted_in = (bundles.CONTENT, bundles.ELSEWHERE, bundles.VALUES)

    assert frozenset.union(*sorted_in) == {field.name for field in fields(CompileOptions)}
    assert sum(map(len, sorted_in)) == len(fields(CompileOptions))


def test_where_a_bundle_goes_has_no_say_in_its_key(options: CompileOptions) -> None:
    other = replace(options, out="elsewhere", lock="edgec.lock", cache="cache")

    assert _key(other) == _key(options)


@pytest.fixture
def fresh_environment() -> object:
    keys.environment.cache_clear()
    yield
    keys.environment.cache_clear()


@pytest.mark.usefixtures("fresh_environment")
def test_an_installed_package_changes_the_key(
    options: CompileOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _key(options)
    (tmp_path / "site" / "onnxruntime-9.9.9.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "site")
    keys.environment.cache_clear()

    assert _key(options) not in (before, None)


@pytest.mark.usefixtures("fresh_environment")
def test_a_variable_that_libraries_read_changes_the_key(
    options: CompileOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _key(options)
    monkeypatch.setenv("ORT_SOMETHING", "1")
    keys.environment.cache_clear()

    assert _key(options) not in (before, None)


def test_edgecs_own_code_and_profiles_are_part_of_every_key(tmp_path: Path) -> None:
    for name in ("a.py", "b.toml"):
        (tmp_path / name).write_text("x = 1\n")
    before = keys.code_digest([tmp_path])
    assert keys.environment()["code"] == keys.code_digest()

    (tmp_path / "b.toml").write_text("x = 2\n")

    assert keys.code_digest([tmp_path]) != before


def test_a_model_made_by_a_program_has_no_key(options: CompileOptions, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def make(): ...\n")

    assert bundles.snapshot(replace(options, model=f"{tmp_path}/net.py:make")) is None


def test_a_vendors_program_leaves_a_bundle_without_a_key(
    options: CompileOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = bundles.snapshot(options, ["m.bin"])
    assert parts is not None
    assert bundles.bundle_key(parts, load("coral-edgetpu"), "tflite") is not None
    (tmp_path / "edgetpu_compiler").write_text("#!/bin/sh\n")
    (tmp_path / "edgetpu_compiler").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert bundles.bundle_key(parts, load("coral-edgetpu"), "tflite") is None


@pytest.mark.parametrize("row", ["../secret.png,0", "/tmp/x.png,0", "a/../../b.png,1"])
def test_data_that_lies_outside_its_folder_has_no_key(tmp_path: Path, row: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "labels.csv").write_text(f"file,label\n{row}\n")

    with pytest.raises(keys.Unknowable):
        keys.content_digest(tmp_path / "d")


def test_a_linked_folder_has_no_key(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "cat").symlink_to(tmp_path)

    with pytest.raises(keys.Unknowable):
        keys.content_digest(tmp_path / "d")


def test_what_a_model_reads_is_remembered_by_its_own_bytes(
    options: CompileOptions, tmp_path: Path
) -> None:
    store = Store(tmp_path / "cache")
    assert bundles.recall_reads(store, options.model) is None
    bundles.remember_reads(store, options.model, ["m.bin"])
    assert bundles.recall_reads(store, options.model) == ("m.bin",)

    _append("m.onnx")(tmp_path)

    assert bundles.recall_reads(store, options.model) is None
