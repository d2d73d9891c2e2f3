"""SavedModels as input: converted by TensorFlow, and never let out of the model.

They are made and read by TensorFlow: pip install 'edgec[tensorflow]'.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compiler_kit import edgec

from edgec_bundle.archive import open_bundle
from edgec_compiler.errors import ModelFileError, UsageError
from edgec_compiler.importers import import_model
from edgec_runtime.pipeline import open_pipeline

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="needs the extra tensorflow"
)
_MAKE = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"], os.environ["KERAS_BACKEND"] = "3", "tensorflow"
import numpy as np, tensorflow as tf, keras

out = sys.argv[1] + "/"
keras.utils.set_random_seed(0)
L = keras.layers
image = keras.Input((8, 8, 3), name="image")
x = L.ReLU(6)(L.BatchNormalization()(L.Conv2D(4, 3, padding="same", strides=2)(image)))
x = L.Add()([x, L.DepthwiseConv2D(3, padding="same")(x)])
y = L.Dense(3, activation="softmax", name="scores")(L.GlobalAveragePooling2D()(x))
net = keras.Model(image, y)
net.compile("adam", "mse")
net.fit(np.zeros((2, 8, 8, 3)), np.zeros((2, 3)), verbose=0)
net.export(out + "keras", verbose=False)
given = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
np.savez(out + "keras.npz", given=given, expected=net(given, training=False))
keras.Sequential([keras.Input((5, 2)), L.LSTM(3)]).export(out + "loop", verbose=False)



def save(name, function, *specs, signatures=None):
    module = tf.Module()
    module.factor = tf.Variable([[2.0], [1.0]])
    module.call = tf.function(lambda *given: function(module, *given), input_signature=specs)
    chosen = module.call if signatures is None else {n: module.call for n in signatures}
    tf.saved_model.save(module, out + name, signatures=chosen)


def written(module, x):
    tf.io.write_file(out + "written", "by the model")
    return x


def read(module, x):
    return x + tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), x.dtype)


def called(module, x):
    return tf.reshape(tf.numpy_function(lambda v: v, [x], tf.float32), [1, 2])


def both(module, left, right):
    return {"sum": left + right, "scaled": tf.matmul(left, module.factor)}


x = tf.TensorSpec([1, 2], name="x")
left = tf.TensorSpec([None, None, 2], name="left")
save("both", both, left, tf.TensorSpec([None, 1, 2], name="right"))
save("writes", written, x)
save("reads", read, x)
save("calls", called, x)
save("text", lambda _, x: tf.strings.length(x), tf.TensorSpec([1], tf.string, name="x"))
save("lacking", lambda _, x: tf.linalg.det(tf.reshape(x, [1, 1, 2, 1]) @ [[1.0, 2.0]]), x)
save("two", lambda _, x: x * 2, x, signatures=("a", "b"))
save("alone", lambda _, x: x + 1, x, signatures=("only",))
save("none", lambda _, x: x, x, signatures=())
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of SavedModels."""
    folder = tmp_path_factory.mktemp("saved")
    subprocess.run([sys.executable, "-c", _MAKE, str(folder)], check=True, capture_output=True)
    return folder


def test_a_keras_export_answers_as_tensorflow_does(saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    done = edgec(
        *("compile", str(saved / "keras"), "--target", "generic-x86_64-tflite"),
        *("--precision", "fp32", "--out", str(out), "--json"),
    )

    assert done.code == 0, done.err
    data = np.load(saved / "keras.npz")
    made = open_pipeline(open_bundle(out)).infer({"image": data["given"]})
    assert np.allclose(next(iter(made.values())), data["expected"], atol=1e-5)


def test_a_saved_model_is_inspected_and_becomes_no_onnx(saved: Path, tmp_path: Path) -> None:
    shown = edgec("inspect", str(saved / "keras"), "--json")
    done = edgec(
        "compile", str(saved / "keras"), "--target", "generic-x86_64", "--out", str(tmp_path / "o")
    )

    assert shown.code == 0, shown.err
    (facts,) = shown.lines
    assert facts["inputs"] == [{"name": "image", "dtype": "float32", "shape": ["?", 8, 8, 3]}]
    assert "Conv2D" in [one["op"] for one in facts["operators"]]
    assert done.code == 1
    assert "choose a TFLite target" in done.err


def test_ends_have_the_names_of_the_signature_and_free_axes_need_a_shape(saved: Path) -> None:
    with pytest.raises(UsageError, match="--shape left=1,N,2"):
        import_model(str(saved / "both"), {})

    source = import_model(str(saved / "both"), {"left": (1, 4, 2)})

    assert {one.name: one.shape for one in source.inputs} == {
        "left": (1, 4, 2),
        "right": (1, 1, 2),
    }
    assert {one.name: one.shape for one in source.outputs} == {
        "sum": (1, 4, 2),
        "scaled": (1, 4, 1),
    }


def test_the_only_signature_is_taken_whatever_its_name(saved: Path) -> None:
    assert [one.name for one in import_model(str(saved / "alone"), {}).inputs] == ["x"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("writes", "operator WriteFile .* reaches outside"),
        ("reads", "operator ReadFile .* reaches outside"),
        ("calls", "operator PyFunc.* reaches outside"),
        ("text", "input 'x' is a text"),
        ("lacking", "TFLite has no form for TensorFlow's MatrixDeterminant.*tf2onnx"),
        ("two", "has the signatures a, b, and none is serving_default"),
        ("none", "has no signature"),
        ("loop", "a loop, as of an LSTM or GRU.*give the model's .keras or .h5 file"),
    ],
)
def test_what_is_not_taken_is_refused_with_the_way_out(name: str, said: str, saved: Path) -> None:
    with pytest.raises(ModelFileError, match=said):
        import_model(str(saved / name), {})

    assert not (saved / "written").exists()


def test_damaged_saved_models_are_refused_in_one_line(saved: Path, tmp_path: Path) -> None:
    whole = (saved / "alone" / "saved_model.pb").read_bytes()
    for number, payload in enumerate((b"", whole[: len(whole) // 2], b"\xff" * 64, whole)):
        folder = tmp_path / str(number)  # the last is whole, but for its variables
        folder.mkdir()
        (folder / "saved_model.pb").write_bytes(payload)

        done = edgec("compile", str(folder), "--target", "rpi4", "--out", str(tmp_path / "out"))

        assert done.code == 2, done.err
        assert "Traceback" not in done.err
        assert not (tmp_path / "out").exists()
