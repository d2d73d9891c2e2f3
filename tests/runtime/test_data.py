"""Data comes from an .npz or a folder of images, and says what is wrong with it."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgec_bundle.manifest import TensorSpec
from edgec_runtime import Data, DataError, load_data


def save(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (2, 2), value).save(path)


def test_an_npz_of_numpy_is_read(tmp_path: Path) -> None:
    rows = np.arange(24, dtype=np.uint8).reshape(6, 4)
    np.savez_compressed(tmp_path / "data.npz", inputs=rows, labels=np.arange(6, dtype=np.int32))

    data = load_data(tmp_path / "data.npz")

    assert len(data) == 6
    np.testing.assert_array_equal(data.inputs["inputs"], rows)
    assert data.labels is not None
    assert data.labels.dtype == np.int64


def test_data_takes_no_more_memory_than_it_has(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", inputs=np.ones((6, 4)))
    program = (
        "import resource, sys\nfrom edgec_runtime import load_data\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (1 << 30,) * 2)\n"
        "print(len(load_data(sys.argv[1])))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "data.npz")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == "6\n", done.stderr


def test_one_array_per_input_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", left=np.ones((2, 3)), right=np.zeros((2, 3)))

    data = load_data(tmp_path / "data.npz")

    assert sorted(data.inputs) == ["left", "right"]
    assert data.labels is None


def test_subfolders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("dog/2.png", "dog/1.jpg", "cat/9.bmp", "dog/notes.txt"):
        if name.endswith("txt"):
            (tmp_path / name).write_text("not an image")
        else:
            save(tmp_path / name)

    data = load_data(tmp_path)

    assert data.names == ("cat/9.bmp", "dog/1.jpg", "dog/2.png")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 1]
    assert data.inputs["inputs"][0] == (tmp_path / "cat/9.bmp").read_bytes()


def test_subfolders_named_as_labels_get_their_numbers(tmp_path: Path) -> None:
    save(tmp_path / "dog" / "1.png")
    save(tmp_path / "2" / "1.png")

    data = load_data(tmp_path, labels=("background", "dog", "cat"))

    assert data.labels is not None
    assert dict(zip(data.names, data.labels.tolist(), strict=True)) == {
        "2/1.png": 2,
        "dog/1.png": 1,
    }


def test_labels_csv_names_files_and_classes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "unlisted.png"):
        save(tmp_path / name)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "labels.csv").write_text(f"file,label\n../b.png,cat\n{tmp_path / 'a.png'},0\n")
    (tmp_path / "labels.csv").write_text("file,label\nb.png,cat\na.png,0\n")

    data = load_data(tmp_path, labels=("dog", "cat"))

    assert data.names == ("b.png", "a.png")
    assert load_data(elsewhere, labels=("dog", "cat")).names == ("../b.png", "../a.png")
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0]


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    save(tmp_path / "b.png")
    save(tmp_path / "a.PNG")

    data = load_data(tmp_path)

    assert data.labels is None
    assert data.names == ("a.PNG", "b.png")


def test_files_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    data = load_data(tmp_path)
    (tmp_path / "b.png").unlink()

    assert data.rows(0, 1).inputs["inputs"][0].startswith(b"\x89PNG")
    with pytest.raises(DataError, match=r"b\.png: No such file"):
        data.inputs["inputs"][1]


def test_take_and_rows_keep_labels_beside_inputs(tmp_path: Path) -> None:
    data = Data({"x": np.arange(5)}, np.arange(5) * 10)

    taken = data.take([3, 1])

    assert taken.inputs["x"].tolist() == [3, 1]
    assert taken.labels is not None
    assert taken.labels.tolist() == [30, 10]
    assert [len(part) for part in data.portions(2)] == [2, 2, 1]


def test_lossless_casts_are_made_and_others_are_not() -> None:
    spec = TensorSpec("x", "uint8", (-1, 2))

    small = Data({"inputs": np.array([[1, 255]], np.int64)}).bound([spec])
    large = Data({"inputs": np.array([[1, 256]], np.int64)}).bound([spec])

    assert small.inputs["x"].dtype == np.uint8
    assert large.inputs["x"].dtype == np.int64


def pickled() -> bytes:
    file = io.BytesIO()
    np.savez(file, inputs=np.array([{"a": 1}], dtype=object))
    return file.getvalue()


BAD = {
    "not a zip": (b"garbage", "expected a well-formed .npz"),
    "empty": (b"", "expected a well-formed .npz"),
    "a pickle": (pickled(), "expected an array of bool, int, uint or float"),
}


@pytest.mark.parametrize(("payload", "message"), BAD.values(), ids=BAD)
def test_a_bad_npz_is_refused_by_name(tmp_path: Path, payload: bytes, message: str) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(payload)

    with pytest.raises(DataError) as caught:
        load_data(path)

    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found nothing"):
        load_data(tmp_path / "absent")
    with pytest.raises(DataError, match="expected images"):
        load_data(tmp_path)


BAD_CSV = {
    "a missing file": ("x.png,1\n", "labels.csv, line 1: no file 'x.png'"),
    "a missing label": ("a.png\n", "line 1: expected file,label, got 1 columns"),
    "an unknown class": ("a.png,horse\n", "'horse' is neither a number nor one of the model's"),
    "not UTF-8": (b"\xff,1\n", "not UTF-8 at byte 0"),
}


@pytest.mark.parametrize(("text", "message"), BAD_CSV.values(), ids=BAD_CSV)
def test_a_bad_labels_csv_is_refused_by_line(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(DataError) as caught:
        load_data(tmp_path, labels=("dog", "cat"))

    assert message in str(caught.value)
