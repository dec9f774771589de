#!/usr/bin/env bash
# Sets the project up in .venv/ beside this file: Python's own venv, the exact versions of requirements.lock (checked
# by hash), then the project itself, editable. Needs Python >= 3.11 and a package index; nothing else.
# Run again after a pull: it changes only what differs. PYTHON=... chooses the interpreter of a new environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
unset PYTHONHOME PYTHONPATH
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 # a user-wide `user = true` would make pip refuse to work in a venv

suits() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        suits "$PYTHON" && command -v "$PYTHON" && return
        echo "setup: PYTHON=$PYTHON is no Python >= 3.11 with the modules venv and ensurepip." >&2
        return 1
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.14 python; do
        suits "$candidate" && command -v "$candidate" && return
    done
    echo "setup: infomax needs Python >= 3.11 with the modules venv and ensurepip, and none was found" \
        "(python3 is $(python3 --version 2>&1 || true)). Install one (on Debian and Ubuntu: python3 and python3-venv)," \
        "or name it: PYTHON=/path/to/python3 bash setup.sh" >&2
    return 1
}

python=.venv/bin/python
if ! suits "$python"; then
    base=$(find_python)
    "$base" -m venv --clear .venv
fi
"$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null

# uv takes seconds where pip takes minutes. Its version and hashes stand in the lock like everyone's.
locked_uv=$(sed -n 's/^uv==\([^ ]*\).*/\1/p' requirements.lock)
if [ "$("$python" -m uv --version 2>/dev/null | cut -d' ' -f2)" != "$locked_uv" ]; then
    lines=$(mktemp)
    trap 'rm -f "$lines"' EXIT
    awk '/^uv==/ { inside = 1 } inside { print } inside && !/\\$/ { exit }' requirements.lock >"$lines"
    "$python" -m pip install --quiet --require-hashes --no-deps --requirement "$lines" ||
        echo "setup: uv could not be installed; going on with pip alone." >&2
fi

# uv reads neither pip's configuration nor its variables: hand over what reaches the index, unless uv has its own.
pip_setting() { # the strongest of environment, [install] and [global]
    local section value
    for section in ':env:' install global; do
        value=$("$python" -m pip config list 2>/dev/null | sed -n "s/^$section\.$1='\(.*\)'\$/\1/p")
        if [ -n "$value" ]; then
            printf '%s' "$value"
            return
        fi
    done
}
hand_over() {
    local name
    for name in UV_DEFAULT_INDEX UV_INDEX_URL; do [ -z "${!name:-}" ] || return 0; done
    local index cert proxy
    index=$(pip_setting index-url)
    cert=$(pip_setting cert)
    proxy=$(pip_setting proxy)
    [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
    [ -z "$cert" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$cert}"
    [ -z "$proxy" ] || export ALL_PROXY="${ALL_PROXY:-$proxy}"
}

with_uv() {
    "$python" -m uv --version >/dev/null 2>&1 || return 1
    (
        hand_over
        export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}"
        "$python" -m uv pip install --quiet --python "$python" --require-hashes --requirement requirements.lock &&
            "$python" -m uv pip install --quiet --python "$python" --no-deps --no-build-isolation --editable .
    )
}
with_pip() {
    "$python" -m pip install --quiet --require-hashes --requirement requirements.lock
    "$python" -m pip install --quiet --no-deps --no-build-isolation --editable .
}

if ! with_uv; then
    echo "setup: uv did not finish; installing the same versions with pip, which takes some minutes." >&2
    with_pip
fi
echo "setup: ready, $("$python" --version) in .venv."
