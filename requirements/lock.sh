#!/bin/sh
# Writes the lock files of this folder from pyproject.toml: every version and hash, no index host.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install pip-tools
compile="$work/venv/bin/pip-compile -q --generate-hashes --strip-extras --no-header --no-annotate \
  --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host"
$compile --extra bench --extra dev -o "$work/all.txt" pyproject.toml
printf 'scikit-build-core[pyproject]\ncmake\nninja\nsetuptools\nwheel\n' >"$work/build.in"
$compile -o requirements/llama-build.txt "$work/build.in"
# llama-cpp-python has no wheel: it is built by its own step, so it gets its own file.
awk '/^[a-z]/ {llama = /^llama-cpp-python/} llama' "$work/all.txt" >requirements/llama.txt
awk '/^[a-z]/ {llama = /^llama-cpp-python/} !llama' "$work/all.txt" >requirements/dev.txt
