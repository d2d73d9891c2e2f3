"""A manifest is one value with one spelling, and whatever else a stranger sends is refused."""

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from edgec_bundle.digest import is_digest, sha256_hex
from edgec_bundle.errors import BundleError, ManifestError
from edgec_bundle.manifest import (
    DTYPES,
    MAX_MANIFEST_BYTES,
    ROLES,
    FileEntry,
    Golden,
    Limits,
    Manifest,
    Requires,
    Runtime,
    TensorSpec,
    target_path,
)
from edgec_bundle.semver import SemVer

DIGEST = "0123456789abcdef" * 4


def a_manifest(**changes: Any) -> Manifest:
    return replace(
        Manifest(
            model="digits",
            version="1.0.0",
            release=1,
            profile="rpi4",
            format="tflite",
            runtime=Runtime("litert", "2.3.0"),
            files=(
                FileEntry("model", "model.tflite", 3, DIGEST),
                FileEntry("report", "report.json", 0, DIGEST),
                FileEntry("golden", "golden.npz", 7, DIGEST),
            ),
            inputs=(TensorSpec("image", "uint8", (-1, 32, 32, 1), "image"),),
            outputs=(TensorSpec("probabilities", "float32", (-1, 10)),),
            preprocessing=({"op": "scale", "mean": [0.5], "std": [0.25]},),
            golden=Golden(8, 0.02, "max_abs"),
            license="Apache-2.0",
        ),
        **changes,
    )


names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
integers = st.integers(-(2**53) + 1, 2**53 - 1)
numbers = st.floats(allow_nan=False, allow_infinity=False) | integers
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, max_size=4)
steps = st.builds(lambda op, rest: {**rest, "op": op}, names, objects)
tensors = st.lists(
    st.builds(
        TensorSpec,
        st.from_regex(r"[\x20-\x7e]{1,20}", fullmatch=True),
        st.sampled_from(DTYPES),
        st.lists(st.integers(-1, 2**31 - 1), max_size=8).map(tuple),
        texts,
    ),
    max_size=3,
    unique_by=lambda tensor: tensor.name,
).map(tuple)
versions = st.builds(
    SemVer,
    *[st.integers(0, 10**15)] * 3,
    st.lists(st.sampled_from(["rc", "1", "alpha-2", "0a"]), max_size=3).map(tuple),
    st.lists(st.sampled_from(["007", "linux", "-"]), max_size=2).map(tuple),
).map(str)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    golden = draw(st.none() | st.builds(Golden, st.integers(1, 99), st.floats(0, 1), names))
    roles = ["model", *draw(st.lists(st.sampled_from([*ROLES[1:3], "report"]), unique=True))]
    files = [
        FileEntry(role, f"{role}/x.{at}", draw(st.integers(0, 2**32 - 1)), DIGEST)
        for at, role in enumerate(roles + (["golden"] if golden else []))
    ]
    optional = st.none() | st.integers(0, 2**53 - 1)
    return Manifest(
        model=draw(names),
        version=draw(versions),
        release=draw(st.integers(1, 2**53 - 1)),
        profile=draw(names),
        format=draw(names),
        runtime=Runtime(draw(names), draw(st.sampled_from([None, "1.24", "2"])), None),
        files=tuple(draw(st.permutations(files))),
        inputs=draw(tensors),
        outputs=draw(tensors),
        preprocessing=tuple(draw(st.lists(steps, max_size=3))),
        postprocessing=tuple(draw(st.lists(steps, max_size=3))),
        golden=golden,
        limits=Limits(draw(st.none() | st.floats(0, 1e9)), draw(optional)),
        metrics=draw(objects),
        baseline=draw(objects),
        lineage=draw(objects),
        license=draw(st.none() | texts),
        requires=Requires(draw(st.none() | names), draw(optional), None, ("op:scale",)),
    )


@given(manifests())
def test_parsing_is_the_inverse_of_writing(manifest: Manifest) -> None:
    payload = manifest.to_bytes()

    parsed = Manifest.from_bytes(payload)

    assert parsed == manifest
    assert parsed.to_bytes() == payload
    assert manifest.digest == sha256_hex(payload)


def test_the_form_of_a_manifest_never_changes() -> None:
    payload = a_manifest().to_bytes()

    assert payload == (
        b'{"baseline":{},"files":[{"bytes":3,"path":"model.tflite","role":"model","sha256":"%s"},'
        b'{"bytes":0,"path":"report.json","role":"report","sha256":"%s"},'
        b'{"bytes":7,"path":"golden.npz","role":"golden","sha256":"%s"}],"format":"tflite",'
        b'"golden":{"metric":"max_abs","samples":8,"tolerance":0.02},"inputs":[{"dtype":"uint8",'
        b'"meaning":"image","name":"image","shape":[-1,32,32,1]}],"license":"Apache-2.0",'
        b'"limits":{"latency_ms_p95":null,"memory_bytes":null},"lineage":{},"metrics":{},'
        b'"model":"digits","outputs":[{"dtype":"float32","meaning":"","name":"probabilities",'
        b'"shape":[-1,10]}],"postprocessing":[],"preprocessing":[{"mean":[0.5],"op":"scale",'
        b'"std":[0.25]}],"profile":"rpi4","release":1,"requires":{"accelerator":null,'
        b'"arch":null,"features":[],"memory_bytes":null},"runtime":{"delegate":null,'
        b'"min_version":"2.3.0","name":"litert"},"schema":1,"version":"1.0.0"}'
        % ((DIGEST.encode(),) * 3)
    )


def test_files_are_found_by_role_and_devices_get_what_runs() -> None:
    manifest = a_manifest()

    assert manifest.entry("golden").path == "golden.npz"
    assert [entry.role for entry in manifest.shipped()] == ["model", "golden"]
    assert manifest.has("report")
    assert not manifest.has("labels")
    assert target_path(manifest) == "digits/1.0.0/rpi4/manifest.json"
    with pytest.raises(ManifestError, match="labels"):
        manifest.entry("labels")


def test_a_later_change_of_the_callers_lists_does_not_reach_the_manifest() -> None:
    mean = [0.5]
    manifest = a_manifest(preprocessing=[{"op": "scale", "mean": mean}])

    mean.append(0.7)

    assert manifest.preprocessing == ({"op": "scale", "mean": [0.5]},)


GOOD = json.loads(a_manifest().to_bytes())


def changed(**changes: Any) -> bytes:
    return rfc8785.dumps({**GOOD, **changes})


def with_file(**changes: Any) -> bytes:
    return changed(files=[{**GOOD["files"][0], **changes}, *GOOD["files"][1:]])


def with_input(**changes: Any) -> bytes:
    return changed(inputs=[{**GOOD["inputs"][0], **changes}])


def raw(old: bytes, new: bytes) -> bytes:
    payload = a_manifest().to_bytes()
    assert old in payload
    return payload.replace(old, new)


HOSTILE = {
    "nothing": b"",
    "not JSON": b"{",
    "not an object": b"[]",
    "null": b"null",
    "a number": b"1",
    "binary": bytes(range(256)),
    "UTF-16": a_manifest().to_bytes().decode().encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + a_manifest().to_bytes(),
    "a space more": a_manifest().to_bytes() + b" ",
    "another order": json.dumps(GOOD).encode(),
    "100 000 lists": b"[" * 100_000,
    "100 000 objects": b'{"a":' * 100_000,
    "closed nesting": b"[" * 5_000 + b"]" * 5_000,
    "deep metrics": raw(b'"metrics":{}', b'"metrics":' + b'{"a":' * 40 + b"1" + b"}" * 40),
    "longer than 1 MiB": b" " * (MAX_MANIFEST_BYTES + 1),
    "a duplicate key": raw(b'"release":1', b'"release":1,"release":1'),
    "a nested duplicate key": raw(b'"name":"litert"', b'"name":"litert","name":"litert"'),
    "a huge integer": raw(b'"release":1', b'"release":' + b"9" * 10_000),
    "an integer beyond 2**53": raw(b'"release":1', b'"release":9007199254740993'),
    "a release as float": raw(b'"release":1', b'"release":1.0'),
    "a release as exponent": raw(b'"release":1', b'"release":1e0'),
    "a release as text": changed(release="1"),
    "a release as true": changed(release=True),
    "release 0": changed(release=0),
    "a negative release": changed(release=-1),
    "NaN": raw(b'"metrics":{}', b'"metrics":{"a":NaN}'),
    "infinity": raw(b'"metrics":{}', b'"metrics":{"a":Infinity}'),
    "a number beyond double": raw(b'"metrics":{}', b'"metrics":{"a":1e999}'),
    "minus zero": raw(b'"metrics":{}', b'"metrics":{"a":-0}'),
    "a lone surrogate": raw(b'"metrics":{}', b'"metrics":{"a":"\\ud800"}'),
    "an escape too many": raw(b'"rpi4"', b'"\\u0072pi4"'),
    "bad UTF-8": raw(b'"metrics":{}', b'"metrics":{"a":"\xff"}'),
    "another schema": changed(schema=2),
    "an unknown field": changed(extra=1),
    "a missing field": rfc8785.dumps({k: v for k, v in GOOD.items() if k != "limits"}),
    "an unknown nested field": changed(limits={**GOOD["limits"], "watts": 1}),
    "a missing nested field": changed(limits={"memory_bytes": None}),
    "a model in upper case": changed(model="Digits"),
    "a model in Cyrillic": changed(model="d\u0456gits"),
    "a model in full width": changed(model="\uff44igits"),
    "a model with a newline": changed(model="digits\n"),
    "an empty model": changed(model=""),
    "a model of 64 characters": changed(model="a" * 64),
    "a model as path": changed(model="../digits"),
    "a version of two numbers": changed(version="1.0"),
    "a version with zero ahead": changed(version="01.0.0"),
    "a version as path": changed(version="1.0.0-../../x"),
    "an endless version": changed(version="1.0." + "1" * 100),
    "a profile with slash": changed(profile="rpi4/x"),
    "files as object": changed(files={}),
    "files as text": changed(files="abc"),
    "files of text": changed(files=["abc"]),
    "no file": changed(files=[]),
    "no model file": changed(files=GOOD["files"][1:]),
    "33 files": changed(files=[{**GOOD["files"][0], "role": f"r{i}"} for i in range(33)]),
    "a role twice": changed(files=[GOOD["files"][0], {**GOOD["files"][0], "path": "b"}]),
    "a path twice": with_file(path="report.json"),
    "a path twice but for case": with_file(path="REPORT.json"),
    "a path below a file": with_file(path="report.json/model"),
    "a path up": with_file(path="../model.tflite"),
    "a path up inside": with_file(path="a/../model.tflite"),
    "an absolute path": with_file(path="/etc/passwd"),
    "a Windows path": with_file(path="C:\\model"),
    "a hidden path": with_file(path=".ssh/model"),
    "a dot": with_file(path="."),
    "an empty path": with_file(path=""),
    "an empty segment": with_file(path="a//b"),
    "a trailing slash": with_file(path="a/"),
    "a path with NUL": with_file(path="a\x00b"),
    "a long path": with_file(path="a/" * 127 + "aa"),
    "the manifest itself": with_file(path="manifest.json"),
    "a neighbour": with_file(path="Targets.JSON"),
    "negative bytes": with_file(bytes=-1),
    "4 GiB": with_file(bytes=2**32),
    "an upper-case digest": with_file(sha256=DIGEST.upper()),
    "a short digest": with_file(sha256=DIGEST[:-1]),
    "a digest with newline": with_file(sha256=DIGEST[:-1] + "\n"),
    "golden without its file": changed(files=GOOD["files"][:2]),
    "a golden file without its tolerance": changed(golden=None),
    "no golden sample": changed(golden={**GOOD["golden"], "samples": 0}),
    "a negative tolerance": changed(golden={**GOOD["golden"], "tolerance": -0.5}),
    "an unknown dtype": with_input(dtype="object"),
    "nine dimensions": with_input(shape=[1] * 9),
    "a dimension of -2": with_input(shape=[-2]),
    "a dimension as float": with_input(shape=[1.5]),
    "a dimension as true": with_input(shape=[True]),
    "a name with a newline": with_input(name="a\nb"),
    "an input twice": changed(inputs=GOOD["inputs"] * 2),
    "a step without op": changed(preprocessing=[{"mean": 1}]),
    "a step that is text": changed(preprocessing=["scale"]),
    "65 steps": changed(postprocessing=[{"op": "softmax"}] * 65),
    "metrics as list": changed(metrics=[]),
    "a license of two lines": changed(license="a\nb"),
    "a feature as number": changed(requires={**GOOD["requires"], "features": [1]}),
    "a feature twice": changed(requires={**GOOD["requires"], "features": ["a", "a"]}),
    "negative memory": changed(requires={**GOOD["requires"], "memory_bytes": -1}),
    "a runtime version in words": changed(runtime={**GOOD["runtime"], "min_version": "new"}),
    "no runtime": changed(runtime=None),
}


@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_refused(payload: bytes) -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_bytes(payload)

    assert len(str(caught.value)) < 500


def test_a_change_of_any_byte_is_refused_or_is_another_manifest() -> None:
    payload = a_manifest().to_bytes()

    for at in range(len(payload)):
        for flip in (0x01, 0x20, 0x80):
            other = payload[:at] + bytes([payload[at] ^ flip]) + payload[at + 1 :]
            try:
                parsed = Manifest.from_bytes(other)
            except ManifestError:
                continue
            assert parsed != a_manifest()
            assert parsed.to_bytes() == other


@given(st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()))
def test_arbitrary_bytes_raise_nothing_but_a_manifest_error(payload: bytes) -> None:
    with pytest.raises(ManifestError):
        Manifest.from_bytes(payload)


@given(st.sampled_from(sorted(GOOD)), values)
def test_an_arbitrary_value_in_any_field_is_refused_or_kept(name: str, value: Any) -> None:
    payload = changed(**{name: value})
    try:
        parsed = Manifest.from_bytes(payload)
    except ManifestError:
        return
    assert parsed.to_bytes() == payload


def test_a_manifest_without_files_is_a_draft_that_cannot_be_signed() -> None:
    draft = a_manifest(files=())

    with pytest.raises(ManifestError, match="role model"):
        draft.to_bytes()


def test_a_manifest_of_more_than_1_mib_cannot_be_signed() -> None:
    with pytest.raises(ManifestError, match="1048576"):
        a_manifest(lineage={"note": "a" * MAX_MANIFEST_BYTES}).to_bytes()


ORDER = [
    "0.9.9", "1.0.0-0", "1.0.0-2", "1.0.0-10", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta",
    "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0",
    "1.10.0", "2.0.0",
]  # fmt: skip


def test_versions_are_ordered_as_semver_says() -> None:
    versions = [SemVer.parse(text) for text in ORDER]

    assert sorted(reversed(versions)) == versions
    assert all(low < high for low, high in pairwise(versions))
    assert SemVer.parse("1.0.0+linux") == SemVer.parse("1.0.0+windows")
    assert len({SemVer.parse("1.0.0"), SemVer.parse("1.0.0+x")}) == 1


@given(versions)
def test_a_version_is_written_as_it_was_read(text: str) -> None:
    if len(text) <= 64:
        assert str(SemVer.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.2", "1.2.3.4", "v1.2.3", "1.2.3-", "1.2.3-01", "1.2.3+", "1.2.3 ", "1.\uff12.3"],
)
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ManifestError, match="version"):
        SemVer.parse(text)


def test_a_digest_is_64_lowercase_characters() -> None:
    assert sha256_hex(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert is_digest(DIGEST)
    assert not any(is_digest(other) for other in (None, 1, b"a" * 64, DIGEST + "\n", "A" * 64))


def test_every_error_of_the_package_can_be_caught_by_its_root() -> None:
    from edgec_bundle import errors

    classes = [one for one in vars(errors).values() if isinstance(one, type)]

    assert len(classes) > 15
    assert all(issubclass(one, BundleError) for one in classes)
    assert all(one.__name__ in (errors.__doc__ or "") for one in classes)
