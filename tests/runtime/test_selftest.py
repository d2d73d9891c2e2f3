"""A bundle is tried in a child; whatever the child does, the parent gets a result."""

import copy
import gc
import os
import stat
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from onnx import TensorProto, helper
from tiny_bundles import images, manifest, onnx_model, variant

from edgec_bundle.errors import BlobMissingError
from edgec_bundle.manifest import FileEntry, Limits, Manifest, TensorSpec
from edgec_bundle.npz import write_npz
from edgec_bundle.store import BytesReader
from edgec_runtime import Acceptance, load_pipeline, record_golden, run_selftest
from edgec_runtime.selftest.protocol import parse_result

ACCEPTANCE = Acceptance(write_npz({"inputs": images(20), "labels": np.arange(20) % 4}), 0.9)


def with_golden(kind: str = "onnx", tolerance: float = 1e-4) -> tuple[dict[str, bytes], Manifest]:
    blobs, described = variant(kind)
    pipeline = load_pipeline(described, blobs.__getitem__)
    npz, golden = record_golden(pipeline, {"image": images(20)}, 6, tolerance)
    entry = FileEntry("golden", "golden.npz", len(npz), "0" * 64)
    return {**blobs, "golden": npz}, replace(
        described, golden=golden, files=(*described.files, entry)
    )


def launcher(folder: Path, body: str) -> tuple[str, ...]:
    """Return a launcher prefix: a Python program that gets the child's command as sys.argv[1:]."""
    path = folder / "launcher.py"
    path.write_text(textwrap.dedent(body))
    return (sys.executable, str(path))


@pytest.mark.parametrize("kind", ["onnx", "quadrants_int8"])
def test_a_good_bundle_passes_with_figures(kind: str) -> None:
    blobs, described = with_golden(kind)

    result = run_selftest(described, blobs, acceptance=ACCEPTANCE, runs=10)

    assert result.reasons == ()
    assert result.passed
    assert result.golden is not None
    assert (result.golden.passed, result.golden.samples) == (True, 6)
    assert result.acceptance is not None
    assert (result.acceptance.score, result.acceptance.samples) == (1.0, 20)
    assert result.latency_ms is not None
    assert result.latency_ms.runs == 10
    assert result.process_bytes is not None
    assert result.memory_bytes is not None
    assert 0 < result.memory_bytes < result.process_bytes
    assert "cpu" in result.delegates


def test_blobs_are_streamed_from_readers() -> None:
    blobs, described = with_golden()
    readers = {role: BytesReader(data) for role, data in blobs.items()}
    assert isinstance(ACCEPTANCE.npz, bytes)

    result = run_selftest(
        described, readers, acceptance=replace(ACCEPTANCE, npz=BytesReader(ACCEPTANCE.npz))
    )

    assert result.passed


def test_a_result_is_evidence_of_plain_values() -> None:
    blobs, described = with_golden()

    evidence = run_selftest(described, blobs, acceptance=ACCEPTANCE, runs=5).to_dict()

    assert evidence["golden"]["failed"] == []
    assert evidence["acceptance"]["passed"] is True
    assert evidence["reasons"] == []


def test_a_model_that_does_its_job_badly_is_refused_with_the_score() -> None:
    blobs, described = with_golden()
    hard = replace(
        ACCEPTANCE, npz=write_npz({"inputs": images(20), "labels": (np.arange(20) + 1) % 4})
    )

    result = run_selftest(described, blobs, acceptance=hard, runs=5)

    assert not result.passed
    assert result.reasons == (
        "acceptance set: score 0.0000 below the minimum 0.9000 on 20 samples",
    )


def test_golden_samples_of_another_model_are_refused() -> None:
    blobs, described = with_golden()
    wrong = onnx_model(
        [
            helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Neg", ["f"], ["y"]),
        ],
        {"x": (TensorProto.FLOAT, ["n", 1, 4, 4])},
        {"y": (TensorProto.FLOAT, ["n", 4])},
    )

    result = run_selftest(described, {**blobs, "model": wrong}, runs=5)

    assert result.golden is not None
    assert result.golden.failed == (0, 1, 2, 3, 4, 5)
    assert "golden samples: 6 of 6 differ" in result.reasons[0]


def test_limits_of_the_manifest_are_held() -> None:
    blobs, described = with_golden()
    described = replace(described, limits=Limits(latency_ms_p95=1e-9, memory_bytes=1))

    result = run_selftest(described, blobs, runs=5)

    assert [reason.partition(":")[0] for reason in result.reasons] == ["latency", "memory"]


HOSTILE: dict[str, tuple[dict[str, bytes], str]] = {
    "model of nothing": ({"model": b""}, "cannot load the model"),
    "model of garbage": ({"model": b"\x08\x08\x12\xff" * 1000}, "cannot load the model"),
    "golden of garbage": ({"golden": b"garbage"}, "golden: expected a well-formed .npz"),
    "labels of garbage": ({"labels": b"\xff\xfe"}, "labels: not UTF-8"),
}


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_blobs_are_refused_by_name(change: dict[str, bytes], message: str) -> None:
    blobs, described = with_golden()

    result = run_selftest(described, {**blobs, **change})

    assert result.cause == "refused"
    assert message in result.reasons[0]


def test_a_missing_blob_is_refused() -> None:
    blobs, described = with_golden()
    del blobs["model"]

    result = run_selftest(described, blobs)

    assert result.cause == "refused"
    assert "the job has no model here" in result.reasons[0]


def test_a_blob_that_cannot_be_read_is_refused() -> None:
    class Gone:
        size = 5_000_000

        def pread(self, n: int, offset: int) -> bytes:
            raise BlobMissingError("the blob is gone")

        def read(self) -> bytes:
            raise BlobMissingError("the blob is gone")

    blobs, described = with_golden()

    result = run_selftest(described, {**blobs, "model": Gone()})

    assert result.cause == "refused"
    assert "the blob is gone" in result.reasons[0]


def test_truncated_real_models_never_hurt_the_parent() -> None:
    blobs, described = with_golden("quadrants_int8")
    model = blobs["model"]

    for end in (60, 400, 900, len(model) - 8):
        result = run_selftest(described, {**blobs, "model": model[:end]}, timeout_s=240)
        assert not result.passed
        assert result.cause in ("refused", "crashed")


def falling_model(model: bytes) -> bytes:
    """Return a TFLite file whose loops call each other for ever: LiteRT's stack overflows."""
    root = flatbuffer_utils.read_model_from_bytearray(bytearray(model))
    root.operatorCodes[0].builtinCode = schema.BuiltinOperator.WHILE
    root.operatorCodes[0].deprecatedBuiltinCode = schema.BuiltinOperator.WHILE
    main = root.subgraphs[0]
    main.operators = main.operators[:1]
    main.operators[0].inputs, main.operators[0].outputs = [0], [5]

    def loop(body: int, name: bytes) -> Any:
        graph = copy.deepcopy(main)
        graph.name = name
        options = schema.WhileOptionsT()
        options.condSubgraphIndex, options.bodySubgraphIndex = 1, body
        graph.operators[0].builtinOptions = options
        graph.operators[0].builtinOptionsType = schema.BuiltinOptions.WhileOptions
        return graph

    condition = copy.deepcopy(main)
    condition.operators = []
    condition.tensors[5].type, condition.tensors[5].shape = schema.TensorType.BOOL, [1]
    root.subgraphs = [loop(2, b"main"), condition, loop(3, b"ping"), loop(2, b"pong")]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(root))


def test_a_model_that_crashes_its_runtime_never_hurts_the_parent() -> None:
    blobs, described = with_golden("quadrants")

    result = run_selftest(described, {**blobs, "model": falling_model(blobs["model"])})

    assert result.cause == "crashed"
    assert result.reasons == ("self-test crashed: was ended by SIGSEGV",)


def endless_model() -> bytes:
    """Return an ONNX file that turns 2**62 times before it answers."""
    counter = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    going = [helper.make_tensor_value_info(n, TensorProto.BOOL, []) for n in ("go", "go_on")]
    image = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 1, 4, 4]) for n in ("v", "w")
    ]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Identity", ["v"], ["w"]),
        ],
        "body",
        [counter, going[0], image[0]],
        [going[1], image[1]],
    )
    return onnx_model(
        [
            helper.make_node("Loop", ["times", "true", "x"], ["turned"], body=body),
            helper.make_node("AveragePool", ["turned"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ],
        {"x": (TensorProto.FLOAT, ["n", 1, 4, 4])},
        {"y": (TensorProto.FLOAT, ["n", 4])},
        {"times": np.array(2**62), "true": np.array(True)},
    )


def test_a_model_that_never_answers_is_ended() -> None:
    blobs, described = with_golden()

    result = run_selftest(described, {**blobs, "model": endless_model()}, timeout_s=3)

    assert result.cause == "timeout"
    assert result.reasons == ("self-test timeout: took longer than 3 s",)


def test_a_native_crash_is_a_result(tmp_path: Path) -> None:
    blobs, described = with_golden()
    prefix = launcher(
        tmp_path,
        """
        import ctypes, sys
        sys.stderr.write("about to fall"); sys.stderr.flush()
        ctypes.string_at(8)  # a read of an address that nobody has
        """,
    )

    result = run_selftest(described, blobs, launcher_prefix=prefix)

    assert result.cause == "crashed"
    assert result.reasons == ("self-test crashed: was ended by SIGSEGV",)
    assert "about to fall" in result.stderr


def test_a_child_that_is_killed_while_it_reads_is_a_result(tmp_path: Path) -> None:
    blobs, described = with_golden()
    prefix = launcher(
        tmp_path,
        """
        import os, signal, sys
        sys.stdin.buffer.read(100)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )

    result = run_selftest(described, {**blobs, "model": bytes(20_000_000)}, launcher_prefix=prefix)

    assert result.cause == "crashed"
    assert "was ended by SIGKILL, perhaps for want of memory" in result.reasons[0]


def test_a_child_that_hangs_is_ended_with_everything_it_started(tmp_path: Path) -> None:
    blobs, described = with_golden()
    pids = tmp_path / "pids"
    prefix = launcher(
        tmp_path,
        f"""
        import os, subprocess, sys, time
        sleeper = subprocess.Popen(["sleep", "600"])
        open({str(pids)!r} + ".new", "w").write(f"{{os.getpid()}} {{sleeper.pid}}")
        os.rename({str(pids)!r} + ".new", {str(pids)!r})
        time.sleep(600)
        """,
    )

    for timeout_s in (2, 20, 120):  # on a slow machine the first may be too short to start
        result = run_selftest(described, blobs, launcher_prefix=prefix, timeout_s=timeout_s)
        assert result.cause == "timeout"
        assert result.reasons == (f"self-test timeout: took longer than {timeout_s} s",)
        if pids.exists():
            break

    for pid in map(int, pids.read_text().split()):
        assert not alive(pid)


def alive(pid: int) -> bool:
    for _ in range(1200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.05)
    return True


def test_a_child_that_eats_memory_is_ended(tmp_path: Path) -> None:
    blobs, described = with_golden()
    prefix = launcher(
        tmp_path,
        """
        import time
        eaten = []
        while True:
            if len(eaten) < 50:  # it is the judge that ends it, not this machine's last page
                eaten.append(bytearray(b"x" * 8_000_000))
            time.sleep(0.01)
        """,
    )

    result = run_selftest(
        described, blobs, launcher_prefix=prefix, memory_bytes=150_000_000, timeout_s=240
    )

    assert result.cause == "memory"
    assert "at most 150000000 allowed" in result.reasons[0]


def greedy() -> tuple[dict[str, bytes], Manifest]:
    """Return a tiny model that asks for 8 GB as soon as it runs."""
    model = onnx_model(
        [helper.make_node("Expand", ["x", "shape"], ["y"])],
        {"x": (TensorProto.FLOAT, [1, 1])},
        {"y": (TensorProto.FLOAT, [1, 2_000_000_000])},
        {"shape": np.array([1, 2_000_000_000], np.int64)},
    )
    described = manifest(
        {"model": model},
        inputs=[TensorSpec("x", "float32", (-1, 1))],
        outputs=[TensorSpec("y", "float32", (-1, -1), "values")],
    )
    return {"model": model}, described


def test_a_model_that_wants_all_the_memory_is_refused_it() -> None:
    blobs, described = greedy()
    acceptance = Acceptance(
        write_npz({"inputs": np.ones((1, 1), np.float32), "labels": np.zeros(1, np.int64)}), 0.5
    )

    result = run_selftest(
        described, blobs, acceptance=acceptance, memory_bytes=400_000_000, timeout_s=240
    )

    assert result.cause == "memory"
    assert not result.passed


LIES: dict[str, str] = {
    "silence": "pass",
    "no JSON": "print('hello')",
    "a list": "print('[]')",
    "nesting": "print('[' * 100000)",
    "too much": "print('x' * 3_000_000)",
    "a wrong member": 'print(\'{"delegates": [], "golden": {"passed": true}}\')',
    "a number too large": 'print(\'{"delegates": [], "memory_bytes": 1e999}\')',
    "an unknown cause": 'print(\'{"delegates": [], "error": "x", "cause": "fate"}\')',
}


@pytest.mark.parametrize("body", LIES.values(), ids=LIES)
def test_a_child_that_talks_nonsense_does_not_pass(tmp_path: Path, body: str) -> None:
    blobs, described = with_golden()
    prefix = launcher(tmp_path, f"import sys\nsys.stdin.buffer.read()\n{body}\n")

    result = run_selftest(described, blobs, launcher_prefix=prefix, timeout_s=240)

    assert result.cause == "protocol"
    assert not result.passed


def test_a_child_cannot_claim_success_by_saying_nothing_of_what_was_asked(tmp_path: Path) -> None:
    blobs, described = with_golden()
    described = replace(described, limits=Limits(latency_ms_p95=5.0, memory_bytes=10**9))
    prefix = launcher(
        tmp_path, "import sys\nsys.stdin.buffer.read()\nprint('{\"delegates\": []}')\n"
    )

    result = run_selftest(described, blobs, acceptance=ACCEPTANCE, launcher_prefix=prefix)

    assert result.reasons == (
        "golden samples: not all were run",
        "acceptance set: was not run",
        "latency: limited, but not measured",
        "memory: limited, but not measured",
    )


def test_a_claim_that_contradicts_itself_does_not_count() -> None:
    claimed = parse_result(
        b'{"delegates": [], "golden": {"passed": true, "samples": 2, "worst_error": 0,'
        b' "failed": [1]}, "acceptance": {"score": 0.1, "minimum": 0.9, "samples": 5,'
        b' "passed": true}}'
    )

    assert claimed.golden is not None
    assert not claimed.golden.passed
    assert claimed.acceptance is not None
    assert not claimed.acceptance.passed


def test_a_launcher_that_is_not_there_is_a_result() -> None:
    blobs, described = with_golden()

    result = run_selftest(described, blobs, launcher_prefix=("/no/such/launcher",))

    assert result.cause == "launcher"
    assert "cannot start /no/such/launcher: No such file" in result.reasons[0]


def test_a_launcher_comes_before_the_childs_command(tmp_path: Path) -> None:
    blobs, described = with_golden()
    script = tmp_path / "launch"
    script.write_text(f'#!/bin/sh\necho started > {tmp_path}/trace\nexec nice -n 5 "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)

    result = run_selftest(described, blobs, launcher_prefix=(str(script),), runs=5)

    assert result.passed
    assert (tmp_path / "trace").read_text() == "started\n"


JOBS: dict[str, bytes] = {
    "nothing": b"",
    "a length of 4 GB": b"\xff\xff\xff\xff",
    "no JSON": b"\0\0\0\3abc",
    "another version": b'\0\0\0\x08{"v":99}',
    "fields missing": b'\0\0\0\x07{"v":1}',
}


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_the_child_refuses_what_is_no_job(job: bytes) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "edgec_runtime.selftest"],
        input=job,
        capture_output=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.startswith(b"expected a self-test job on stdin")


def children() -> list[str]:
    """Return the pids of this process's children, ended and unreaped ones too."""
    return sorted(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_nothing_is_left_open_or_running() -> None:
    blobs, described = with_golden()
    gc.collect()  # what other tests left to the collector is none of ours
    before = len(os.listdir("/proc/self/fd")), children()

    run_selftest(described, blobs, runs=5)

    gc.collect()
    assert (len(os.listdir("/proc/self/fd")), children()) == before


def test_the_child_has_a_process_group_of_its_own(tmp_path: Path) -> None:
    blobs, described = with_golden()
    prefix = launcher(
        tmp_path,
        f"""
        import os, sys
        open({str(tmp_path / "group")!r}, "w").write(str(os.getpgid(0)))
        os.execv(sys.argv[1], sys.argv[1:])
        """,
    )

    run_selftest(described, blobs, launcher_prefix=prefix, runs=5)

    assert int((tmp_path / "group").read_text()) != os.getpgid(0)
