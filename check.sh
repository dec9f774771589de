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
workers=$(nproc 2>/dev/null || echo 2) # files of tests side by side, each process with one thread
run .venv/bin/pytest -n "$((workers < 4 ? workers : 4))" --dist loadfile "$@" # last: its closing line stands at the end
if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
