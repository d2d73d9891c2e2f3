"""The command line: help, JSON, exit codes, and what must not be imported."""

import json
import shutil
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiler_kit import DIGITS, ROOT, Compiled, edgec
from PIL import Image

from edgec_bundle.archive import open_bundle, pack_bundle, write_bundle
from edgec_bundle.trust import (
    ROLES,
    RoleKeys,
    generate_key,
    generate_signer,
    new_root,
    sign,
    verify_release,
)
from edgec_compiler.cli import main

COMMANDS = (
    *("targets", "inspect", "check", "compile", "sensitivity", "run", "evaluate", "diff", "patch"),
    *("sign", "verify", "push", "search"),
)
REFERENCE = (ROOT / "docs" / "reference" / "cli-edgec.md").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])

    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"example:\n  edgec {command} " in said
    assert f"## edgec {command}" in REFERENCE


@pytest.mark.parametrize("arguments", [[], ["bake"], ["compile"], ["compile", "m.onnx"]])
def test_wrong_usage_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("edgec")
    assert said[1:] == [f"Try `{said[0].partition(':')[0]} --help`."]


def test_targets_come_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "--json"]) == 0

    listed = json.loads(capsys.readouterr().out)
    assert {"rpi4", "coral-edgetpu", "jetson-orin-nano"} <= {one["name"] for one in listed}
    assert all(one["formats"] for one in listed)


@pytest.mark.parametrize(
    ("name", "operators", "tensor"),
    [("1.0.0.onnx", 27, "image"), ("1.0.0.pt2", 39, "x")],
)
def test_a_model_is_inspected(
    name: str, operators: int, tensor: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(DIGITS / name), "--json"]) == 0

    facts = json.loads(capsys.readouterr().out)
    assert len(facts["operators"]) == operators
    assert facts["inputs"][0]["name"] == tensor
    assert facts["inputs"][0]["dtype"] == "float32"


def test_a_dry_run_says_what_would_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(DIGITS / "1.0.0.onnx")
    two = ["--target", "rpi4", "--target", "jetson-orin-nano"]

    assert main(["compile", model, *two, "--dry-run", "--json", "--out", str(tmp_path)]) == 0

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["target"], one["format"], one["precision"]) for one in lines] == [
        ("rpi4", "tflite", "fp16"),
        ("jetson-orin-nano", "onnx", "fp16"),
    ]
    assert "needs --calibration" in lines[0]["note"]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_opens_the_model_and_says_what_would_be_refused(
    compiled: Compiled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quantised = str(compiled.folder / "rpi4" / "model.tflite")
    two = ["--target", "rpi4", "--target", "generic-x86_64"]
    words = ["--dry-run", "--out", str(tmp_path / "out")]
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x07 nothing more")

    assert main(["compile", quantised, *two, *words, "--json"]) == 1

    said = capsys.readouterr()
    fine, refused = (json.loads(line)["refused"] for line in said.out.splitlines())
    assert fine is None
    assert refused.startswith("generic-x86_64: a TFLite file can only become a TFLite bundle")
    assert f"edgec: {refused}\n" in said.err
    assert main(["compile", str(tmp_path / "broken.onnx"), "--target", "rpi4", *words]) == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "broken.onnx"]


def test_a_photo_and_arrays_are_run(
    compiled: Compiled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = np.load(DIGITS / "acceptance.npz")
    image = samples["inputs"][0]
    Image.fromarray(image[..., 0]).save(tmp_path / "digit.png")
    np.save(tmp_path / "digit.npy", image)
    np.savez(tmp_path / "three.npz", inputs=samples["inputs"][:3])
    files = [str(tmp_path / name) for name in ("digit.png", "digit.npy", "three.npz")]

    assert main(["run", str(compiled.folder / "rpi4"), "--json", "--input", *files]) == 0

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["input"].removeprefix(str(tmp_path) + "/") for one in lines] == [
        *("digit.png", "digit.npy", "three.npz[0]", "three.npz[1]", "three.npz[2]")
    ]
    assert lines[0]["label"] == str(samples["labels"][0])
    assert lines[0]["outputs"] == lines[1]["outputs"] == lines[2]["outputs"]
    assert len(lines[0]["outputs"]["probabilities"]) == 10
    assert lines[0]["score"] == pytest.approx(max(lines[0]["outputs"]["probabilities"]))
    assert lines[0]["elapsed_ms"] > 0


def png(side: int, bits: int, rows: bytes = b"") -> bytes:
    """Return a grey PNG file of side x side pixels whose rows may be short."""
    header = struct.pack(">IIBBBBB", side, side, bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(held)) + name + held + struct.pack(">I", zlib.crc32(name + held))
        for name, held in chunks
    )


REFUSED_IMAGES = {
    "letter.jpg": (b"hello", "not one of PNG, JPEG"),
    "empty.png": (b"", "cannot decode 0 bytes"),
    "truncated.png": (png(8, 8, b"\0" * 20), "truncated"),
    "sixteen.png": (png(1, 16, b"\0\1\2"), "expected 8 bits per channel, got 16"),
    "large.png": (png(10_000, 8), "expected at most 40000000 pixels, got 10000x10000"),
    "bomb.png": (png(60_000, 8), "exceeds limit"),
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", [*REFUSED_IMAGES, "missing.png", "."])
def test_what_is_no_image_is_refused_in_one_line_that_names_the_file(
    name: str, compiled: Compiled, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content, reason = REFUSED_IMAGES.get(name, (None, ""))
    if content is not None:
        (tmp_path / name).write_bytes(content)

    code = main(["run", str(compiled.folder / "rpi4"), "--input", str(tmp_path / name)])

    said = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("INFO")]
    assert code == 2
    assert len(said) == 1
    assert said[0].startswith(f"edgec: {tmp_path / name}: ")
    assert reason in said[0]


@pytest.mark.parametrize("name", ["1.0.0.onnx", "1.0.0.pt2"])
def test_a_source_model_is_evaluated_like_a_bundle(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = ["--preprocessing", str(DIGITS / "steps.toml")]
    data = ["--data", str(DIGITS / "evaluation.npz")]

    assert main(["evaluate", str(DIGITS / name), *data, *steps, "--json"]) == 0

    facts = json.loads(capsys.readouterr().out)
    assert facts["samples"] == 450
    assert facts["accuracy"] >= 0.97


def test_a_bundle_travels_as_a_patch(
    compiled: Compiled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = compiled.folder / "rpi4", compiled.folder / "coral-edgetpu"
    patch, made = tmp_path / "p", tmp_path / "made"

    assert main(["diff", str(old), str(new), "-o", str(patch), "--json"]) == 0
    assert main(["patch", str(old), str(patch), "-o", str(made), "--json"]) == 0

    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["bytes"]["patch"] == patch.stat().st_size < first["bytes"]["new"] / 2
    assert second["sha256"] == open_bundle(new).digest == open_bundle(made).digest


def test_a_patch_for_another_bundle_is_refused(
    compiled: Compiled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = compiled.folder / "rpi4", compiled.folder / "coral-edgetpu"
    main(["diff", str(old), str(new), "-o", str(tmp_path / "p")])

    assert main(["patch", str(new), str(tmp_path / "p"), "-o", str(tmp_path / "n")]) == 1
    assert not (tmp_path / "n").exists()
    assert capsys.readouterr().err.startswith("edgec: ")


def test_one_flipped_bit_fails_verification(
    compiled: Compiled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(compiled.folder / "rpi4", tmp_path / "copy")
    assert main(["verify", str(copy)]) == 0
    payload = bytearray((copy / "model.tflite").read_bytes())
    payload[40_000] ^= 1
    (copy / "model.tflite").write_bytes(payload)

    assert main(["verify", str(copy)]) == 1
    assert "expected model.tflite" in capsys.readouterr().err


def test_variants_are_signed_together_and_verified(
    compiled: Compiled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, root = _trust(tmp_path)
    bundles = []
    for target in ("rpi4", "generic-x86_64"):
        bundles.append(tmp_path / f"{target}.edgeb")
        pack_bundle(open_bundle(compiled.folder / target), bundles[-1])
    names = [str(path) for path in bundles]
    assert main(["verify", names[0], "--root", str(root)]) == 1
    assert "not signed" in capsys.readouterr().err

    assert main(["sign", *names, "--key", str(key)]) == 0
    assert main(["verify", names[0], "--root", str(root), "--json"]) == 0

    assert json.loads(capsys.readouterr().out.splitlines()[-1])["signed"] is True
    document = bundles[1].with_name(bundles[1].name + ".targets.json").read_bytes()
    manifest = open_bundle(bundles[1]).manifest_bytes
    verify_release(manifest, root.read_bytes(), document, datetime.now(UTC))

    root.write_bytes(b"{}")
    capsys.readouterr()
    assert main(["verify", names[0], "--root", str(root)]) == 2
    assert main(["sign", *names, "--key", str(tmp_path / "none.pem")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"edgec: --root {root}: ")
    assert said[1].startswith("edgec: --key: ")
    for option in ("--root", "--targets"):
        assert main(["sign", *names, "--key", str(key), option, str(root)]) == 1
        assert capsys.readouterr().err.startswith(f"edgec: {option} {root}: not well-formed")


def test_only_variants_of_one_release_are_signed_or_pushed_together(
    compiled: Compiled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, _ = _trust(tmp_path)
    one = open_bundle(compiled.folder / "rpi4")
    other, twin = tmp_path / "other", tmp_path / "twin"
    contents = {role: (one.manifest.entry(role).path, one.read(role)) for role in ("model",)}
    bare = replace(one.manifest, files=(), golden=None, postprocessing=())
    write_bundle(other, replace(bare, model="other", version="2.0.0"), contents)
    write_bundle(twin, bare, contents)
    ways = (["sign", "--key", str(key)], ["push", "--server", "http://127.0.0.1:9", "--token", "t"])

    for command, *options in ways:
        assert main([command, str(one.path), str(other), *options]) == 2
        assert main([command, str(one.path), str(twin), *options]) == 2

        mixed, twice = capsys.readouterr().err.splitlines()
        assert f"{command} the variants of one release at a time" in mixed
        assert f"{other} is other 2.0.0, release {one.manifest.release}" in mixed
        assert f"{one.path} and {twin} are for the same target, rpi4" in twice
    assert not (one.path / "targets.json").exists()


def _trust(folder: Path) -> tuple[Path, Path]:
    """Return a release key and a root that names it."""
    key = folder / "release.pem"
    signer = generate_key(key)
    roles = {name: RoleKeys((signer.public_key,)) for name in ROLES}
    roles["acceptance"] = RoleKeys((generate_signer().public_key,))
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    draft = new_root(roles, expires=expires)
    root = folder / "root.json"
    root.write_bytes(sign(draft, signer))
    return key, root


@contextmanager
def _server(answer: tuple[int, bytes]) -> Iterator[tuple[str, list[tuple[str, Any, bytes]]]]:
    """Serve one fixed answer on loopback and note every request."""
    seen: list[tuple[str, Any, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, self.headers, body))
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            self.wfile.write(answer[1])

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_push_sends_every_variant_in_one_request(
    compiled: Compiled, capsys: pytest.CaptureFixture[str]
) -> None:
    bundles = [str(compiled.folder / target) for target in ("rpi4", "generic-x86_64")]

    with _server((201, b'{"model": "digits"}')) as (url, seen):
        assert main(["push", *bundles, "--server", url, "--token", "secret", "--json"]) == 0

    path, headers, body = seen[0]
    assert json.loads(capsys.readouterr().out) == {"model": "digits"}
    assert (path, headers["Authorization"]) == ("/v1/releases", "Bearer secret")
    assert body.count(b'name="bundle"; filename="') == 2
    assert open_bundle(bundles[0]).manifest_bytes in body


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, b'{"error": "log in"}'), "refuses (401): --token is no API token of it"),
        ((403, b'{"error": "token may not publish"}'), "refuses (403): token may not publish"),
        ((200, b"<html>"), "not JSON"),
        ((500, b""), "refuses (500)"),
    ],
)
def test_what_the_server_refuses_exits_4(
    compiled: Compiled, answer: tuple[int, bytes], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with _server(answer) as (url, _):
        code = main(["push", str(compiled.folder / "rpi4"), "--server", url, "--token", "t"])

    assert code == 4
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("http://127.0.0.1:9", 4, "cannot talk to 127.0.0.1:9"),
        ("http://fleet.example", 2, "only sent over https"),
        ("fleet.example", 2, "expected a URL"),
    ],
)
def test_a_server_that_cannot_be_used_is_told(
    compiled: Compiled, url: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["push", str(compiled.folder / "rpi4"), "--server", url, "--token", "t"]

    assert main(arguments) == code
    assert said in capsys.readouterr().err


def test_commands_that_need_no_torch_do_not_import_it(compiled: Compiled) -> None:
    bundle = str(compiled.folder / "rpi4")
    program = (
        "import sys\n"
        "from edgec_compiler.cli import main\n"
        "main(['targets'])\n"
        "assert 'numpy' not in sys.modules, 'a list of targets shall come at once'\n"
        f"main(['inspect', {bundle!r}]); main(['verify', {bundle!r}])\n"
        f"main(['inspect', {str(DIGITS / '1.0.0.onnx')!r}])\n"
        f"main(['inspect', {str(DIGITS / '1.0.0.pt2')!r}])\n"
        f"main(['evaluate', {bundle!r}, '--data', {str(DIGITS / 'acceptance.npz')!r}])\n"
        f"main(['evaluate', {str(DIGITS / '1.0.0.onnx')!r}, '--data', "
        f"{str(DIGITS / 'acceptance.npz')!r}, '--preprocessing', {str(DIGITS / 'steps.toml')!r}])\n"
        "assert not {'torch', 'tensorflow', 'litert_torch'} & sys.modules.keys()\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def test_a_crash_in_a_native_library_becomes_a_message(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("import os, signal\ndef make(): os.kill(os.getpid(), signal.SIGSEGV)\n")

    out = str(tmp_path / "out")
    done = edgec("compile", f"{file}:make", "--target", "generic-x86_64", "--out", out)

    assert done.code == 1
    assert "was killed by SIGSEGV at step 'import'" in done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == [file]
