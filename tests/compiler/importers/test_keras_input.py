"""Keras files as input: rebuilt on torch, without code of theirs; old kinds by their extra."""

import importlib.util
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiler_kit import edgec

from edgec_bundle.archive import open_bundle
from edgec_compiler.errors import MissingExtraError, ModelFileError
from edgec_compiler.importers import import_model
from edgec_compiler.importers.keras_config import facts_of, read_config
from edgec_runtime.pipeline import open_pipeline

_MAKE = """
import os; os.environ["KERAS_BACKEND"] = "torch"
import sys, keras, numpy as np
keras.utils.set_random_seed(0)
image = keras.Input((None, 16, 3), name="image")
x = keras.layers.Conv2D(8, 3, padding="same", strides=2)(image)
x = keras.layers.BatchNormalization()(x)
x = keras.layers.ReLU(6)(x)
x = keras.layers.Add()([x, keras.layers.DepthwiseConv2D(3, padding="same")(x)])
x = keras.layers.GlobalAveragePooling2D()(x)
model = keras.Model(image, keras.layers.Dense(4, activation="softmax", name="scores")(x))
model.save(sys.argv[1])
model.save(sys.argv[1].replace(".keras", ".h5"))
values = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
np.savez(sys.argv[2], inputs=values, expected=np.asarray(model(values, training=False).detach()))
"""
needs_keras = pytest.mark.skipif(
    importlib.util.find_spec("keras") is None, reason="needs the extra keras"
)
without_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None, reason="the extra tensorflow is installed"
)


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small image model in a .keras file, with inputs and Keras's own answers beside it."""
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("keras")
    subprocess.run(
        [sys.executable, "-c", _MAKE, str(folder / "net.keras"), str(folder / "data.npz")],
        check=True,
        capture_output=True,
    )
    return folder / "net.keras"


@needs_keras
def test_a_keras_model_answers_as_keras_does(keras_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    done = edgec(
        *("compile", str(keras_file), "--target", "generic-x86_64-tflite", "--precision", "fp32"),
        *("--shape", "image=1,16,16,3", "--out", str(out), "--json"),
    )

    assert done.code == 0, done.err
    bundle = open_bundle(out)
    assert bundle.manifest.inputs[0].shape == (-1, 16, 16, 3)
    assert not bundle.manifest.preprocessing  # channel-last already: no transposes
    data = np.load(keras_file.with_name("data.npz"))
    made = open_pipeline(bundle).infer({"image": data["inputs"]})
    assert np.allclose(next(iter(made.values())), data["expected"], atol=1e-5)


@needs_keras
def test_a_free_axis_of_a_keras_model_needs_its_shape(keras_file: Path) -> None:
    done = edgec("compile", str(keras_file), "--target", "rpi4", "--out", "/nowhere")

    assert done.code == 2
    assert "fix it with --shape image=1,N,16,3" in done.err


@needs_keras
def test_a_keras_file_is_inspected_without_keras(keras_file: Path) -> None:
    facts = facts_of(read_config(keras_file, "keras"))

    assert facts["inputs"] == [{"name": "image", "dtype": "float32", "shape": ["?", "?", 16, 3]}]
    assert [one["op"] for one in facts["operators"]][:2] == ["Conv2D", "BatchNormalization"]


def _keras(path: Path, config: Any) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", b"")
    return path


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"class_name": "Lambda", "module": "keras.layers"}, "whose code is never run"),
        ({"a": [{"class_name": "__lambda__", "config": {}}]}, "whose code is never run"),
        ({"class_name": "TorchModuleWrapper", "module": "keras.layers"}, "code is never run"),
        ({"class_name": "system", "module": "os"}, "os.system, which is not Keras's own"),
        ({"class_name": "X", "module": None, "registered_name": "mine>X"}, "not Keras's own"),
        ({"class_name": "X", "module": "kerasevil"}, "not Keras's own"),
        (_nested(200), "its configuration is no object"),
        ({"a": _nested(200)}, "nested too deep"),
    ],
)
def test_code_in_a_keras_file_is_refused_before_keras_sees_it(
    config: Any, said: str, tmp_path: Path
) -> None:
    file = _keras(tmp_path / "m.keras", config)

    with pytest.raises(ModelFileError, match=said):
        import_model(str(file), {})


def test_a_lying_archive_is_refused(tmp_path: Path) -> None:
    file = _keras(tmp_path / "m.keras", {})
    payload = bytearray(file.read_bytes())
    payload[payload.index(b"{}") + 1] ^= 1
    file.write_bytes(payload)

    with pytest.raises(ModelFileError, match="is damaged"):
        import_model(str(file), {})


@without_tensorflow
def test_a_saved_model_names_the_extra_that_reads_it(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\x08\x01")

    for command in (("compile", "--target", "rpi4", "--out", str(tmp_path / "out")), ("inspect",)):
        done = edgec(command[0], str(tmp_path / "saved"), *command[1:])

        assert done.code == 3, done.err
        assert "pip install 'edgec[tensorflow]'" in done.err


@needs_keras
@pytest.mark.parametrize("target", ["generic-x86_64", "generic-x86_64-tflite"])
def test_an_h5_model_answers_as_keras_does_on_either_runtime(
    target: str, keras_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    done = edgec(
        *("compile", str(keras_file.with_suffix(".h5")), "--target", target),
        *("--precision", "fp32", "--shape", "image=1,16,16,3", "--out", str(out), "--json"),
    )

    assert done.code == 0, done.err
    data = np.load(keras_file.with_name("data.npz"))
    made = open_pipeline(open_bundle(out)).infer({"image": data["inputs"]})
    assert np.allclose(next(iter(made.values())), data["expected"], atol=1e-5)


@needs_keras
def test_an_h5_file_is_inspected(keras_file: Path) -> None:
    done = edgec("inspect", str(keras_file.with_suffix(".h5")), "--json")

    assert done.code == 0, done.err
    (facts,) = done.lines
    assert facts["inputs"] == [{"name": "image", "dtype": "float32", "shape": ["?", "?", 16, 3]}]
    assert [one["op"] for one in facts["operators"]][:2] == ["Conv2D", "BatchNormalization"]


def _h5(path: Path, config: Any = None, **attributes: Any) -> Path:
    h5py: Any = pytest.importorskip("h5py", reason="needs the extra keras")
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)
    return path


def _layer(kind: str, **config: Any) -> dict[str, Any]:
    return {"class_name": "Sequential", "config": [{"class_name": kind, "config": config}]}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (_layer("Lambda", function=["4wEAAAA=", None, None]), "Lambda, whose code is never run"),
        (_layer("Mine>Layer"), "Mine>Layer, which is not Keras's own"),
        (_layer("Mine", name="m", batch_input_shape=[None, 2]), "Mine, which is not Keras's own"),
        (_layer("TFOpLambda", name="tf.nn.relu"), "calls TensorFlow itself .tf.nn.relu."),
        (_nested(200), "its configuration is no object"),
        ({"a": _nested(200)}, "nested too deep"),
    ],
)
def test_code_in_an_h5_file_is_refused(config: Any, said: str, tmp_path: Path) -> None:
    file = _h5(tmp_path / "m.h5", config)

    with pytest.raises(ModelFileError, match=said):
        import_model(str(file), {})


def test_an_h5_file_without_a_model_says_what_it_is(tmp_path: Path) -> None:
    _h5(tmp_path / "weights.h5", layer_names=["dense"])
    _h5(tmp_path / "other.h5")
    (tmp_path / "damaged.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    said = {
        "weights.h5": "save the whole model",
        "other.h5": "an HDF5 file without a Keras model",
        "damaged.h5": "a damaged .h5 file",
    }

    for name, message in said.items():
        with pytest.raises(ModelFileError, match=message):
            import_model(str(tmp_path / name), {})


def test_an_archive_that_would_unpack_to_a_thousand_times_its_size_is_refused(
    tmp_path: Path,
) -> None:
    file = tmp_path / "bomb.keras"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(128 << 20))

    with pytest.raises(ModelFileError, match="which no weights do"):
        import_model(str(file), {})


@needs_keras
def test_metadata_that_is_no_json_is_told_as_damage(keras_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "m.keras"
    with zipfile.ZipFile(keras_file) as sound, zipfile.ZipFile(file, "w") as archive:
        for name in sound.namelist():
            archive.writestr(name, "{nope" if name == "metadata.json" else sound.read(name))

    with pytest.raises(ModelFileError, match=r"metadata\.json"):
        import_model(str(file), {})


def test_what_else_lies_in_an_archive_is_never_unpacked(tmp_path: Path) -> None:
    config = {"class_name": "Dense", "module": "keras.layers", "config": {"units": "none"}}
    file = _keras(tmp_path / "m.keras", config)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("../outside.txt", "x")
        archive.writestr("assets/../../outside.txt", "x")

    with pytest.raises((ModelFileError, MissingExtraError)):
        import_model(str(file), {})

    assert not list(tmp_path.parent.glob("**/outside.txt"))


def test_weights_in_another_form_than_hdf5_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.keras"
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.npz"):
            archive.writestr(name, "{}")

    with pytest.raises(ModelFileError, match="save it again"):
        import_model(str(file), {})
