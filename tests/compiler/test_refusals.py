"""What is refused, with which words, and which exit code. Nothing is written by a refusal."""

import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from compiler_kit import DIGITS
from onnx import helper

from edgec_compiler.cli import main
from edgec_compiler.errors import CompilerError
from edgec_compiler.importers import import_model
from edgec_compiler.sessions import source_outputs

MODEL = str(DIGITS / "1.0.0.onnx")


def _zip(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/").replace("_DOT_", "."), data)
    return path


FILES: dict[str, tuple[bytes, int, str]] = {
    "empty.onnx": (b"", 2, "an empty file"),
    "notes.onnx": (b"dear reader, this is no model at all", 2, "a text file"),
    "pointer.onnx": (b"version https://git-lfs.github.com/spec/v1\n", 2, "git lfs pull"),
    "model.h5": (b"\x89HDF\r\n\x1a\n" + bytes(40), 2, "a damaged .h5 file"),
    "frozen.pb": (b"\x0a\x20" + bytes(40), 2, "frozen TensorFlow 1 graph"),
    "whole.pt": (pickle.dumps([1, 2]), 2, "never unpickled"),
    "noise.onnx": (b"\x08\x07\x12" + b"\xff" * 600, 2, "not an ONNX file"),
    "cut.tflite": (struct.pack("<I", 28) + b"TFL3" + bytes(30), 2, "damaged TFLite"),
    "damaged.pt2": (b"PK\x03\x04" + bytes(60), 2, "damaged archive"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_model_is_refused_with_a_way_out(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    payload, code, said = FILES[name]
    file = tmp_path / name
    file.write_bytes(payload)

    assert main(["inspect", str(file)]) == code
    assert said in capsys.readouterr().err


def test_archives_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(torch.nn.Linear(1, 1), tmp_path / "module.pt")
    _zip(tmp_path / "net.keras", metadata_DOT_json=b"{}", model_DOT_weights_DOT_h5=b"")
    _zip(tmp_path / "photos.zip", a_DOT_jpg=b"")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"")

    for name, code, said in (
        ("module.pt", 2, "can run any code when it is opened"),
        ("net.keras", 2, "config.json is missing"),
        ("photos.zip", 2, "an archive that holds no model"),
        ("saved", 3, "edgec[tensorflow]"),
        ("nothing.onnx", 2, "No such file"),
    ):
        assert main(["inspect", str(tmp_path / name)]) == code
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--target", "toaster"], "unknown target 'toaster': expected"),
        (["--target", "coral-edgetpu"], "add --calibration DATA"),
        (["--target", "rpi4", "--precision", "int8"], "or choose --precision fp16"),
        (["--target", "rpi4", "--format", "onnx"], "takes tflite, not onnx"),
        (["--target", "coral-edgetpu", "--precision", "fp16"], "takes int8, not fp16"),
        (["--target", "rpi4", "--shape", "image=1,x"], "expected NAME=1,3,224,224"),
        (["--target", "rpi4", "--version", "new"], "--version"),
        (["--target", "rpi4", "--name", "My Model"], "--name: expected at most 63 of a-z"),
        (["--target", "rpi4", "--release", "0"], "expected 1 or more"),
        (["--target", "rpi4", "--target", "rpi4"], "give each target once"),
        (["--target", "rpi4", "--calibration", "nowhere.npz"], "no such file"),
        (["--target", "rpi4", "--max-accuracy-drop", "7"], "expected a fraction 0..1"),
    ],
)
def test_a_wrong_option_is_refused_before_any_work(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    assert main(["compile", MODEL, *options, "--out", str(out)]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def _save(path: Path, shape: list[int | str], dims: list[int | str] | None = None) -> Path:
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    made = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, dims)
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [made])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_a_free_axis_must_be_fixed_and_the_message_says_how(tmp_path: Path) -> None:
    file = str(_save(tmp_path / "free.onnx", ["batch", 3, "height", 8]))

    with pytest.raises(CompilerError, match="--shape x=1,3,N,8"):
        import_model(file, {})

    assert import_model(file, {"x": (1, 3, 4, 8)}).inputs[0].shape == (1, 3, 4, 8)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"z": (1, 2)}, "no input 'z'; its inputs are x"),
        ({"x": (1, 9)}, "does not fit the model's"),
    ],
)
def test_a_shape_that_contradicts_the_model_is_refused(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], said: str
) -> None:
    file = str(_save(tmp_path / "fixed.onnx", ["batch", 3]))

    with pytest.raises(CompilerError, match=said):
        import_model(file, shapes)


def test_external_data_stays_in_the_models_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    folder = tmp_path / "inner"
    folder.mkdir()
    file = _save(folder / "m.onnx", [1, 4])
    model = onnx.load(file)
    tensor = model.graph.initializer.add(name="w", data_type=1, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    file.write_bytes(model.SerializeToString())

    with pytest.raises(CompilerError, match="lies outside the model's folder"):
        import_model(str(file), {})


def test_an_exported_program_with_pickled_parts_is_refused(tmp_path: Path) -> None:
    config = b'{"config": {"w": {"path_name": "w", "use_pickle": true}}}'
    file = tmp_path / "m.pt2"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/archive_format", "pt2")
        archive.writestr("m/data/weights/model_weights_config.json", config)

    with pytest.raises(CompilerError, match="never unpickled"):
        import_model(str(file), {})


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["1.0.0.onnx", "1.0.0.pt2"])
def test_a_truncated_model_is_refused(tmp_path: Path, name: str, keep: float) -> None:
    payload = (DIGITS / name).read_bytes()
    file = tmp_path / name
    file.write_bytes(payload[: int(len(payload) * keep)])

    with pytest.raises(CompilerError):
        import_model(str(file), {})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def make(): return 7", "must return .* got int"),
        ("def make(): return (3, 'x')", r"must return .* got \(int, str\)"),
        ("def make(): raise ValueError('no weights')", "ValueError: no weights"),
        ("make = 3", "has no function 'make'"),
        ("import nothing_like_it", "ModuleNotFoundError"),
        ("def make(:", "SyntaxError"),
    ],
)
def test_a_factory_that_fails_is_told_in_one_line(tmp_path: Path, body: str, said: str) -> None:
    file = tmp_path / "net.py"
    file.write_text(body)

    with pytest.raises(CompilerError, match=said):
        import_model(f"{file}:make", {})


def test_a_python_file_needs_the_name_of_its_function(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.py"
    file.write_text("")

    assert main(["compile", str(file), "--target", "rpi4"]) == 2
    assert f"{file}:factory" in capsys.readouterr().err


def test_a_folder_of_other_files_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "holiday.txt").write_text("mine")

    assert main(["compile", MODEL, "--target", "rpi4", "--out", str(tmp_path), "--dry-run"]) == 2
    assert "--out" in (said := capsys.readouterr().err)
    assert "holiday.txt" in said


def test_a_bundle_is_not_written_over_other_files(tmp_path: Path) -> None:
    from edgec_bundle.archive import write_bundle
    from edgec_bundle.errors import ArchiveError
    from edgec_bundle.manifest import Manifest, Runtime

    (tmp_path / "holiday.txt").write_text("mine")
    manifest = Manifest(
        model="m",
        version="1.0.0",
        release=1,
        profile="p",
        format="onnx",
        runtime=Runtime("onnxruntime"),
        inputs=(),
        outputs=(),
    )

    with pytest.raises(ArchiveError, match=r"holiday\.txt"):
        write_bundle(tmp_path, manifest, {"model": ("model.onnx", b"x")})

    assert (tmp_path / "holiday.txt").read_text() == "mine"


def test_data_of_another_shape_is_refused_before_compiling(tmp_path: Path) -> None:
    from edgec_compiler.errors import UsageError
    from edgec_compiler.interface import Steps, interface_of
    from edgec_compiler.samples import load_samples
    from edgec_runtime.session import ModelTensor

    np.savez(tmp_path / "d.npz", inputs=np.zeros((4, 9), np.float32))
    tensor = ModelTensor("x", "float32", (1, 8))
    interface = interface_of(Steps(), (tensor,), {"y": np.zeros((1, 2), np.float32)})

    with pytest.raises(UsageError, match=r"--calibration .*expected shape \[-1, 8\]"):
        load_samples(tmp_path / "d.npz", "calibration", (), interface)


def test_a_patch_does_not_overwrite_what_it_was_made_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"old")
    new.write_bytes(b"new")

    code = main(["diff", str(old), str(new), "-o", str(old)])

    assert code == 2
    assert "give the result another name" in capsys.readouterr().err
    assert old.read_bytes() == b"old"


def test_options_of_the_search_are_told_to_be_idle_where_nothing_is_searched(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--precision", "fp32", "--search-budget", "5", "--optimize-for", "size"]

    assert main(["compile", MODEL, "--target", "rpi4", *options, "--dry-run"]) == 0

    said = capsys.readouterr().out
    assert "--optimize-for, --search-budget: for --precision auto only" in said


RANDOM = """
import torch
from torch import nn
from torch.nn import functional


class Drops(nn.Module):
    def forward(self, x):
        return functional.dropout(x, 0.5, training=True)


class Draws(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x), x


class Evaluated(nn.Module):
    def forward(self, x):
        return functional.dropout(x, 0.5, training=self.training) + torch.rand_like(x) * 0


def make(module):
    return lambda: (module(), torch.ones(1, 64))


drops, draws, evaluated = make(Drops), make(Draws), make(Evaluated)
"""


@pytest.mark.parametrize(
    ("factory", "said"), [("drops", "(aten.dropout)"), ("draws", "(aten.rand_like)")]
)
def test_a_model_that_answers_the_same_input_differently_is_refused(
    factory: str, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "random.py"
    file.write_text(RANDOM)

    with pytest.raises(CompilerError, match="answers the same input differently") as refused:
        source_outputs(import_model(f"{file}:{factory}", {}))

    assert said in str(refused.value)
    assert "training=self.training" in str(refused.value)


def test_a_model_that_draws_for_nothing_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "random.py"
    file.write_text(RANDOM)

    (made,) = source_outputs(import_model(f"{file}:evaluated", {})).values()

    assert made.shape == (1, 64)
