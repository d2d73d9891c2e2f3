"""The parent's side of a self-test: starts the child, bounds it, and believes little of it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from edgec_bundle.errors import BundleError
from edgec_bundle.manifest import Limits, Manifest
from edgec_bundle.store import BlobReader, BytesReader
from edgec_runtime.selftest.protocol import (
    MAX_RESULT_BYTES,
    ROLES,
    Cause,
    Job,
    SelfTestResult,
    parse_result,
)

_CHUNK = 1 << 20
_POLL_S = 0.02
_STDERR_BYTES = 8192
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A signed acceptance set: .npz bytes, the least score that passes, and the metric."""

    npz: bytes | BlobReader
    minimum: float
    metric: str = "accuracy"


def run_selftest(
    manifest: Manifest,
    blobs: Mapping[str, bytes | BlobReader],
    *,
    acceptance: Acceptance | None = None,
    launcher_prefix: Sequence[str] = (),
    timeout_s: float = 120.0,
    memory_bytes: int | None = None,
    runs: int = 30,
    threads: int = 1,
) -> SelfTestResult:
    """Try a bundle in a child process: golden samples, acceptance set, latency, memory.

    Nothing that the model does reaches this process: a crash, a hang, too much memory or a wrong
    answer each become a result that did not pass, with a reason.

    Args:
        manifest: what to try.
        blobs: the verified "model", and "labels" and "golden" if the manifest lists them; bytes,
            or readers, which are streamed without holding a whole file.
        acceptance: the acceptance set of the model line, if it has one.
        launcher_prefix: put before the child's command, as ("nice", "-n", "19") or a sandbox.
        timeout_s: the longest that the child may take, start included.
        memory_bytes: the most that the child may have resident, interpreter included; None: no
            limit.
        runs: how many inferences the latency is taken from.
        threads: as the model will be served.
    """
    payloads = _payloads(manifest, blobs, acceptance)
    job = Job(
        blobs=tuple((role, reader.size) for role, reader in payloads),
        runs=runs,
        threads=threads,
        timeout_s=timeout_s,
        memory_bytes=memory_bytes,
        minimum=None if acceptance is None else acceptance.minimum,
        metric="accuracy" if acceptance is None else acceptance.metric,
    )
    result = _try(job, [reader for _, reader in payloads], launcher_prefix)
    return _judged(result, manifest, acceptance)


def _try(job: Job, blobs: list[BlobReader], launcher_prefix: Sequence[str]) -> SelfTestResult:
    # -P: the folder that we happen to be in must not provide modules.
    command = [*launcher_prefix, sys.executable, "-P", "-m", "edgec_runtime.selftest"]
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        said = f"cannot start {command[0]}: {error.strerror or error}"
        return SelfTestResult(error=said, cause="launcher")
    return _Watch(child, job, blobs).result()


def _payloads(
    manifest: Manifest, blobs: Mapping[str, bytes | BlobReader], acceptance: Acceptance | None
) -> list[tuple[str, BlobReader]]:
    everything: dict[str, bytes | BlobReader] = {"manifest": manifest.to_bytes()}
    everything |= {role: blobs[role] for role in blobs if role in ROLES and manifest.has(role)}
    if acceptance is not None:
        everything["acceptance"] = acceptance.npz
    return [
        (role, BytesReader(blob) if isinstance(blob, bytes) else blob)
        for role in ROLES
        if (blob := everything.get(role)) is not None
    ]


class _Watch:
    """One running child: feeds it, listens, and ends it when it breaks a bound."""

    def __init__(self, child: subprocess.Popen[bytes], job: Job, blobs: list[BlobReader]) -> None:
        self._child = child
        self._job = job
        self._said = b""
        self._complaints = b""
        self._peak = 0
        self._unreadable: Exception | None = None
        self._pipes = (_pipe(child.stdin), _pipe(child.stdout), _pipe(child.stderr))
        stdin, stdout, stderr = self._pipes
        self._threads = [
            threading.Thread(target=self._feed, args=(stdin, blobs), daemon=True),
            threading.Thread(target=self._listen, args=(stdout,), daemon=True),
            threading.Thread(target=self._overhear, args=(stderr,), daemon=True),
        ]

    def result(self) -> SelfTestResult:
        """Wait for the end, at the latest for the deadline, and say what came of it."""
        deadline = time.monotonic() + self._job.timeout_s
        for thread in self._threads:
            thread.start()
        try:
            broken = self._wait(deadline)
        finally:
            self._end()
        found = self._outcome(broken)
        stderr = self._complaints.decode("utf-8", "replace")[-_STDERR_BYTES:]
        return replace(
            found, stderr=stderr, process_bytes=found.process_bytes or self._peak or None
        )

    def _wait(self, deadline: float) -> tuple[Cause, str] | None:
        """Return which bound the child broke, or None once it has ended by itself."""
        limit = self._job.memory_bytes
        while True:
            try:
                self._child.wait(_POLL_S)
                return None
            except subprocess.TimeoutExpired:
                pass
            self._peak = max(self._peak, _resident(self._child.pid))
            if limit is not None and self._peak > limit:
                return "memory", f"took {self._peak} bytes of memory, at most {limit} allowed"
            if time.monotonic() > deadline:
                return "timeout", f"took longer than {self._job.timeout_s:g} s"
            if len(self._said) > MAX_RESULT_BYTES:
                return "protocol", f"said more than {MAX_RESULT_BYTES} bytes"

    def _end(self) -> None:
        """Leave no process and no open pipe behind."""
        try:
            os.killpg(self._child.pid, signal.SIGKILL)  # a launcher's other children too
        except (ProcessLookupError, PermissionError):
            self._child.kill()
        self._child.wait()
        for thread in self._threads:
            thread.join(timeout=5)
        for pipe in self._pipes:
            with suppress(OSError):  # what could not be flushed to a dead child
                pipe.close()

    def _outcome(self, broken: tuple[Cause, str] | None) -> SelfTestResult:
        if broken is not None:
            return SelfTestResult(error=broken[1], cause=broken[0])
        if self._unreadable is not None:
            return SelfTestResult(error=f"cannot read a blob: {self._unreadable}", cause="refused")
        status = self._child.returncode
        if status != 0:
            return SelfTestResult(error=_death(status), cause="crashed")
        try:
            return parse_result(self._said)
        except ValueError as error:
            return SelfTestResult(error=f"gave no result: {error}", cause="protocol")

    def _feed(self, pipe: IO[bytes], blobs: list[BlobReader]) -> None:
        with suppress(OSError, ValueError):  # the child has ended; how, its exit status says
            try:
                pipe.write(self._job.to_bytes())
                for blob in blobs:
                    self._stream(blob, pipe)
            finally:
                pipe.close()

    def _stream(self, blob: BlobReader, pipe: IO[bytes]) -> None:
        for offset in range(0, blob.size, _CHUNK):
            try:
                chunk = blob.pread(min(_CHUNK, blob.size - offset), offset)
            except (OSError, BundleError) as error:
                self._unreadable = error
                raise OSError("a blob cannot be read") from error
            pipe.write(chunk)

    def _listen(self, pipe: IO[bytes]) -> None:
        while chunk := _some(pipe):
            if len(self._said) <= MAX_RESULT_BYTES:
                self._said += chunk

    def _overhear(self, pipe: IO[bytes]) -> None:
        while chunk := _some(pipe):
            self._complaints = (self._complaints + chunk)[-_STDERR_BYTES:]


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise RuntimeError("the child was started without a pipe")
    return pipe


def _some(pipe: IO[bytes]) -> bytes:
    try:
        return os.read(pipe.fileno(), 1 << 16)
    except (OSError, ValueError):
        return b""


def _resident(pid: int) -> int:
    """Return the resident memory of `pid` and its descendants (a launcher may fork); 0: unknown."""
    total, family = 0, [pid]
    while family:
        process = Path(f"/proc/{family.pop()}")
        try:
            total += int((process / "statm").read_text().split()[1]) * _PAGE
            for thread in (process / "task").iterdir():
                family += [int(child) for child in (thread / "children").read_text().split()]
        except (OSError, IndexError, ValueError):
            continue  # it ended meanwhile, or the kernel does not list children
    return total


def _death(status: int) -> str:
    if status > 0:
        return f"ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


def _judged(
    result: SelfTestResult, manifest: Manifest, acceptance: Acceptance | None
) -> SelfTestResult:
    reasons = []
    if result.error is not None:
        reasons.append(f"self-test {result.cause}: {result.error}")
    else:
        reasons += _shortfalls(result, manifest, acceptance)
        reasons += _excesses(result, manifest.limits)
    return replace(result, reasons=tuple(reasons))


def _shortfalls(
    result: SelfTestResult, manifest: Manifest, acceptance: Acceptance | None
) -> list[str]:
    reasons = []
    golden, accepted = result.golden, result.acceptance
    if manifest.golden is not None:
        if golden is None or golden.samples != manifest.golden.samples:
            reasons.append("golden samples: not all were run")
        elif not golden.passed:
            reasons.append(
                f"golden samples: {len(golden.failed)} of {golden.samples} differ;"
                f" worst error {golden.worst_error:g}, tolerance {manifest.golden.tolerance:g}"
            )
    if acceptance is not None:
        if accepted is None or accepted.minimum != acceptance.minimum:
            reasons.append("acceptance set: was not run")
        elif not accepted.passed:
            reasons.append(
                f"acceptance set: score {accepted.score:.4f} below the minimum"
                f" {accepted.minimum:.4f} on {accepted.samples} samples"
            )
    return reasons


def _excesses(result: SelfTestResult, limits: Limits) -> list[str]:
    reasons = []
    if limits.latency_ms_p95 is not None:
        if result.latency_ms is None:
            reasons.append("latency: limited, but not measured")
        elif result.latency_ms.p95 > limits.latency_ms_p95:
            reasons.append(
                f"latency: p95 {result.latency_ms.p95:.3f} ms, limit {limits.latency_ms_p95:g} ms"
            )
    if limits.memory_bytes is not None:
        if result.memory_bytes is None:
            reasons.append("memory: limited, but not measured")
        elif result.memory_bytes > limits.memory_bytes:
            reasons.append(f"memory: {result.memory_bytes} bytes, limit {limits.memory_bytes}")
    return reasons
