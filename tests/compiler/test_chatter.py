"""What native libraries say on stderr: chatter is kept from people, complaints are not."""

import os

import pytest

from edgec_compiler.cli.chatter import without_chatter

CHATTER = b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n"


def test_only_the_chatter_is_kept_back(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        os.write(2, b"ERROR: no such kernel\n" + CHATTER + b"INFO: of another kind\n")
        raise RuntimeError

    with pytest.raises(RuntimeError), without_chatter():
        fail()

    assert capfd.readouterr().err == "ERROR: no such kernel\nINFO: of another kind\n"


def test_what_is_said_afterwards_comes_through(capfd: pytest.CaptureFixture[str]) -> None:
    with without_chatter():
        os.write(2, CHATTER)

    os.write(2, b"ERROR: later\n")
    assert capfd.readouterr().err == "ERROR: later\n"
