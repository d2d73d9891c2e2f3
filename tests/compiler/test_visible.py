"""What model files name is shown on one line, and steers no terminal."""

from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgec_compiler.cli import main
from edgec_compiler.cli.command import visible
from edgec_compiler.memory import available_bytes, own_bytes

NAME = "a\nb\x1b[31m\u202e"


def _save(path: Path, op: str) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4)) for name in (NAME, "y")]
    graph = helper.make_graph([helper.make_node(op, [NAME], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)


@given(st.text())
def test_shown_text_is_printable_and_says_the_same(text: str) -> None:
    shown = visible(text)

    assert shown.isprintable()
    assert visible(shown) == shown
    if text.isprintable():
        assert shown == text


def test_names_are_shown_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _save(tmp_path / "named.onnx", "Relu")

    assert main(["inspect", str(tmp_path / "named.onnx")]) == 0

    said = capsys.readouterr().out
    assert "a\\nb\\x1b[31m\\u202e" in said
    assert "\x1b" not in said


def test_refusals_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _save(tmp_path / "odd.onnx", "Foo\nBar\x1b[31m")
    out = str(tmp_path / "out")

    assert main(["compile", str(tmp_path / "odd.onnx"), "--target", "rpi4", "--out", out]) != 0

    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("edgec: ")]
    assert len(said) == 1
    assert "Foo\\nBar\\x1b[31m" in said[0]


def test_the_memory_that_is_left_is_more_than_what_this_process_has() -> None:
    free, mine = available_bytes(), own_bytes()

    assert free is not None
    assert mine is not None
    assert mine > 0
    assert free > 0
