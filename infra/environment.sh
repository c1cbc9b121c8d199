#!/usr/bin/env bash
# Makes or refreshes the project's own environment in .venv from a hashed lock file.
#
#   infra/environment.sh base     requirements.txt: what `make demo` needs
#   infra/environment.sh dev      requirements-dev.txt: that, and what tests and checks need
#
# Uses uv where it is on PATH, else Python's venv and pip. A second run with unchanged locks returns at once; a run
# that was interrupted is noticed by its marker, and the environment is then made afresh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

profile="${1:-dev}"
case "$profile" in
base) lock=requirements.txt ;;
dev) lock=requirements-dev.txt ;;
*)
    echo "usage: infra/environment.sh base|dev" >&2
    exit 2
    ;;
esac
environment=.venv
python="$environment/bin/python"
stamp="$environment/.tapehouse-$profile"
marker="$environment/.tapehouse-installing"
home="$environment/.tapehouse-home"
wanted="$(cat "$lock" pyproject.toml infra/environment.sh | cksum)"

if [ -x "$python" ] && [ ! -e "$marker" ] && [ "$(cat "$home" 2>/dev/null)" = "$PWD" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

# A pip that knows its index or certificate by PIP_* settings lends them to uv.
if [ -n "${PIP_INDEX_URL:-}" ]; then export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"; fi
if [ -n "${PIP_EXTRA_INDEX_URL:-}" ]; then export UV_INDEX="${UV_INDEX:-$PIP_EXTRA_INDEX_URL}"; fi
if [ -n "${PIP_CERT:-}" ]; then export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"; fi

usable() { # A Python that runs, is 3.11 or newer, and can make environments.
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in python3.11 python3.12 python3.13 python3; do
        if usable "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

create() {
    local base
    if base="$(find_python)"; then
        echo "Making $environment with $("$base" --version)" >&2
        "$base" -m venv --clear "$environment"
    elif command -v uv >/dev/null; then
        echo "Making $environment with a Python 3.11 that uv fetches" >&2
        uv venv --quiet --clear --seed --python 3.11 "$environment"
    else
        echo "tapehouse needs Python 3.11 or newer with venv and ensurepip (Debian: apt install python3-venv), or uv" >&2
        exit 3
    fi
}

install() {
    if command -v uv >/dev/null; then
        uv pip install --quiet --python "$python" --require-hashes -r "$lock" &&
            uv pip install --quiet --python "$python" --no-deps --no-build-isolation --editable . &&
            return 0
        echo "uv could not install; trying pip" >&2
    fi
    "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null
    "$python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
}

# An environment left half-made, copied from another place, or with too old a Python is of no use.
if [ -e "$marker" ] || [ "$(cat "$home" 2>/dev/null || echo "$PWD")" != "$PWD" ] || ! usable "$python"; then
    create
fi
: >"$marker"
echo "$PWD" >"$home"
rm -f "$stamp"
echo "Installing $lock into $environment (some minutes the first time)" >&2
install
rm -f "$marker"
echo "$wanted" >"$stamp"
