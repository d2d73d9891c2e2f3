#!/bin/sh
# Make .venv-triton, an environment of its own for tritonclient (it pins things we do not want
# among ours), and print the path of its Python. Quick when it exists; exit 3 if it cannot be made.
set -eu

VERSION=2.73.0
root=$(cd "$(dirname "$0")/.." && pwd)
env="${EDGEC_TRITON_ENV:-$root/.venv-triton}"
stamp="$env/.edgec-tritonclient-$VERSION"

if command -v flock >/dev/null; then # parallel test workers: one makes it, the others wait
    exec 9<"$root/scripts"
    flock 9
fi
if [ ! -f "$stamp" ]; then
    rm -rf "$env"
    "${PYTHON:-python3}" -m venv "$env" >&2 || exit 3
    printf '*\n' >"$env/.gitignore"
    "$env/bin/python" -m pip install --quiet --disable-pip-version-check \
        "tritonclient[http]==$VERSION" >&2 || { rm -rf "$env"; exit 3; }
    : >"$stamp"
fi
echo "$env/bin/python"
