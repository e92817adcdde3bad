#!/bin/sh
# Install the product alone into a new virtual environment: `sh deploy/install.sh FOLDER`.
# The image is made with it. Everything is pinned with its hash, what builds the wheel too; the
# environment gets no pip. Runs in the repository's root and writes nothing there.
set -eu
target=$1
python=${PYTHON:-python3}
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

"$python" -m venv "$made/builder"
builder="$made/builder/bin/python -m pip --disable-pip-version-check"
sed -n '/^setuptools==/,/[^\\]$/p' requirements-dev.lock >"$made/builder.lock"
$builder install --quiet --require-hashes -r "$made/builder.lock"
# setuptools builds beside the sources.
mkdir "$made/sources"
cp -R pyproject.toml agents schemas streams "$made/sources"
$builder wheel --quiet --no-deps --no-build-isolation --wheel-dir "$made" "$made/sources"

"$python" -m venv --without-pip "$target"
into="$builder --python $target/bin/python install --quiet"
$into --require-hashes --only-binary :all: -r requirements.lock
$into --no-deps "$made"/check_dedup-*.whl
