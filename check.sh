#!/usr/bin/env bash
# Everything CI asks of the working tree: lint, formatting, types, tests. All of them run; fails if any fails.
# Arguments go to pytest: bash check.sh -m "not slow"
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
failed=()
run() {
    printf '\n== %s\n' "$*"
    "$@" || failed+=("$*")
}
run .venv/bin/ruff check
run .venv/bin/ruff format --check
run .venv/bin/pyright
# Two files of tests side by side, the longest first (tests/conftest.py); of the fault tests much is waiting. Last, so
# that its closing line is what stands at the end.
run .venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 60 "$@"
if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
