"""Build the wheels of edgec-accel for Linux on x86-64 and aarch64, and install this machine's.

    python accel/build.py [--no-install]

Both come from one compiler, zig's, which pip brings into a folder of its own; it needs no root
and no cross toolchain. The wheels go to accel/dist, work with any CPython from 3.11 on (stable
ABI), and are the same bytes each time.
"""

import argparse
import base64
import hashlib
import platform
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
DIST = HERE / "dist"
TOOLS = HERE / "build" / "tools"
COMPILER = "ziglang==0.15.2"
MACHINES = ("x86_64", "aarch64")
GLIBC = "2.17"
FLAGS = ("-O2", "-ffp-contract=off", "-std=c11", "-Wall", "-Wextra", "-Werror", "-fPIC", "-s")
EPOCH = (2020, 1, 1, 0, 0, 0)


def main() -> None:
    """Build, and install unless told not to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-install", action="store_true", help="only build")
    arguments = parser.parse_args()
    DIST.mkdir(exist_ok=True)
    wheels = {machine: wheel(machine, library(machine)) for machine in MACHINES}
    for path in wheels.values():
        print(path.relative_to(HERE.parent))
    own = wheels.get(platform.machine())
    if own is not None and not arguments.no_install:
        pip("install", "--quiet", "--no-deps", "--force-reinstall", str(own))


def library(machine: str) -> bytes:
    """Return the extension module for a machine."""
    if not (TOOLS / "ziglang").is_dir():
        pip("install", "--quiet", "--no-deps", "--target", str(TOOLS), COMPILER)
    out = HERE / "build" / f"_lanes.{machine}.so"
    compiler = [str(TOOLS / "ziglang" / "zig"), "cc", "-target", f"{machine}-linux-gnu.{GLIBC}"]
    include = sysconfig.get_path("include")
    source = str(HERE / "edgec_accel" / "_lanes.c")
    command = [*compiler, *FLAGS, "-shared", f"-isystem{include}", source, "-o", str(out)]
    subprocess.run(command, check=True)
    return out.read_bytes()


def wheel(machine: str, extension: bytes) -> Path:
    """Write the wheel for a machine and return its path."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    name, version = project["name"].replace("-", "_"), project["version"]
    tag = f"cp311-abi3-manylinux_2_17_{machine}.manylinux2014_{machine}"
    info = f"{name}-{version}.dist-info"
    metadata = [
        "Metadata-Version: 2.4",
        f"Name: {project['name']}",
        f"Version: {version}",
        f"Summary: {project['description']}",
        f"License-Expression: {project['license']}",
        f"Requires-Python: {project['requires-python']}",
        "Description-Content-Type: text/markdown",
        "",
        (HERE / "README.md").read_text(),
    ]
    kinds = [f"Tag: cp311-abi3-{one}" for one in tag.removeprefix("cp311-abi3-").split(".")]
    described = ["Wheel-Version: 1.0", "Generator: edgec", "Root-Is-Purelib: false", *kinds, ""]
    files = {
        f"edgec_accel/{path.name}": path.read_bytes()
        for path in sorted((HERE / "edgec_accel").iterdir())
        if path.suffix in (".py", ".pyi", ".typed") or path.name == "py.typed"
    }
    files["edgec_accel/_lanes.abi3.so"] = extension
    files[f"{info}/METADATA"] = "\n".join(metadata).encode()
    files[f"{info}/WHEEL"] = "\n".join(described).encode()
    files[f"{info}/RECORD"] = record(files, info)
    path = DIST / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for inner, data in files.items():
            entry = zipfile.ZipInfo(inner, EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return path


def record(files: dict[str, bytes], info: str) -> bytes:
    """Return the list of the files and their digests."""
    lines = []
    for inner, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{inner},sha256={digest},{len(data)}")
    return "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()


def pip(*arguments: str) -> None:
    """Run pip of this interpreter."""
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)


if __name__ == "__main__":
    main()
