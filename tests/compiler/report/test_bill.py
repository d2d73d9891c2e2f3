"""Bill of materials, provenance and lock files: complete, consistent, and enforced."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from compiler_kit import DIGITS, ROOT, TARGETS, Compiled, edgec

from edgec_bundle.archive import open_bundle
from edgec_bundle.digest import sha256_hex
from edgec_compiler.compress.wanted import Wanted
from edgec_compiler.errors import NotAchievedError, UsageError
from edgec_compiler.locking import check_lock, differences, lock_run, write_lock
from edgec_compiler.options import CompileOptions
from edgec_compiler.tools import licences_of
from edgec_hardware_profiles import Profile, load

INPUTS, TOOLS = {"model": "ab"}, {"torch": "2.13.0"}


def bill_of(compiled: Compiled, target: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(open_bundle(compiled.folder / target).read("sbom"))
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_a_bill_of_materials_holds_together(compiled: Compiled, target: str) -> None:
    bill, bundle = bill_of(compiled, target), open_bundle(compiled.folder / target)
    model = bill["metadata"]["component"]

    refs = ["model", *(one["bom-ref"] for one in bill["components"])]
    assert len(set(refs)) == len(refs)
    assert {one["ref"] for one in bill["dependencies"]} == set(refs)
    assert {ref for one in bill["dependencies"] for ref in one.get("dependsOn", ())} <= set(refs)
    assert model["hashes"] == [{"alg": "SHA-256", "content": sha256_hex(bundle.read("model"))}]
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bill["serialNumber"])
    purls = [one["purl"] for one in bill["components"] if "purl" in one]
    assert not [purl for purl in purls if "+" in purl]
    inputs = {one["name"] for one in bill["components"] if one["type"] == "data"}
    assert inputs == {"calibration", "evaluation", "labels", "preprocessing"}


def test_a_bill_names_licences_by_spdx_where_packages_state_them(compiled: Compiled) -> None:
    licensed = {c["name"]: c.get("licenses") for c in bill_of(compiled, "rpi4")["components"]}

    assert licensed["onnx"] == [{"expression": "Apache-2.0"}] or licensed["onnx"] == [
        {"license": {"id": "Apache-2.0"}}
    ]
    assert licensed["torch"]
    assert licences_of("no-such-package") == []


def test_provenance_names_the_model_its_materials_and_the_way(compiled: Compiled) -> None:
    bundle = open_bundle(compiled.folder / "rpi4")
    statement = json.loads(bundle.read("provenance"))
    build = statement["predicate"]["buildDefinition"]

    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert build["externalParameters"]["precision"] == "int8"
    materials = {one.get("name") for one in build["resolvedDependencies"]}
    assert {"model", "calibration", "evaluation", "preprocessing", "labels"} <= materials
    assert statement["predicate"]["runDetails"]["builder"]["id"]


def options(**more: Any) -> CompileOptions:
    return CompileOptions(model="m.onnx", targets=("rpi4",), out="out", **more)


def locked(folder: Path, profile: Profile) -> Path:
    path = folder / "edgec.lock"
    write_lock(path, INPUTS, TOOLS)
    lock_run(path, options(), [profile])
    return path


def test_an_equal_run_keeps_its_lock_whatever_it_is_called(tmp_path: Path) -> None:
    path = locked(tmp_path, load("rpi4"))

    check_lock(path, INPUTS, TOOLS)
    same = options(version="2.0.0", release=7, name="other", jobs=3)
    assert differences(path, same, [load("rpi4")]) == ()


def test_every_difference_is_named(tmp_path: Path) -> None:
    path, rpi5 = locked(tmp_path, load("rpi4")), load("rpi5")

    with pytest.raises(
        NotAchievedError, match=r"input model: locked ab, here cd; tool torch: .* none"
    ):
        check_lock(path, {"model": "cd"}, {})
    run = differences(path, options(precision="fp32", compress=Wanted(prune=0.5)), [rpi5])
    assert run[:2] == (
        "option compress prune: locked none, here 0.5",
        "option precision: locked auto, here fp32",
    )
    assert run[2].startswith("target rpi4: locked ")
    assert run[3].startswith("target rpi5: locked none, here ")
    with pytest.raises(NotAchievedError) as caught:
        check_lock(path, {"model": "cd"}, TOOLS, run)
    assert str(caught.value) == f"--locked {path}: input model: locked ab, here cd; " + "; ".join(
        run
    )


def test_a_profile_is_locked_by_what_it_says(tmp_path: Path) -> None:
    own = tmp_path / "rpi4.toml"
    profiles = ROOT / "hardware_profiles" / "edgec_hardware_profiles" / "profiles"
    text = (profiles / "rpi4.toml").read_text()
    own.write_text(f"# a comment of mine\n{text}")
    path = locked(tmp_path, load("rpi4"))

    assert not differences(path, options(), [load(str(own))])
    own.write_text(text.replace("bytes_per_s = 5500000000", "bytes_per_s = 1"))
    (one,) = differences(path, options(), [load(str(own))])
    assert one.startswith("target rpi4: locked ")


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 5000, '{"inputs": 3, "tools": {}}'])
def test_what_is_no_lock_file_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "edgec.lock"
    path.write_text(content)

    with pytest.raises(UsageError, match="not a readable lock file"):
        check_lock(path, INPUTS, TOOLS)


def test_a_lock_without_a_folder_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    lock, out = tmp_path / "no" / "edgec.lock", tmp_path / "out"
    model = str(DIGITS / "1.0.0.onnx")

    done = edgec("compile", model, "--target", "rpi4", "--lock", str(lock), "--out", str(out))

    assert done.code == 2
    assert done.err == f"edgec: --lock {lock}: there is no folder {lock.parent}\n"
    assert not out.exists()


def test_a_locked_run_tells_other_options_and_other_inputs_together(tmp_path: Path) -> None:
    path = locked(tmp_path, load("rpi4"))
    words = ("compile", str(DIGITS / "1.0.0.onnx"), "--target", "rpi4", "--precision", "fp32")

    for more in ((), ("--dry-run",)):
        done = edgec(*words, "--locked", str(path), "--out", str(tmp_path / "out"), *more)

        assert done.code == 1
        assert "input model: locked ab" in done.err
        assert "option precision: locked auto, here fp32" in done.err
        assert not (tmp_path / "out").exists()
