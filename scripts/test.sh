#!/usr/bin/env bash
# Runs the tests in order unit, integration, e2e (by `make test`); arguments go to pytest: make test ARGS="tests/unit -k loss".
#
# The whole suite runs in as many processes as there are cores, up to four, file by file (25 minutes on 2 cores).
# Programs that the tests need and this machine lacks (MinIO, Helm, ...) are installed or built meanwhile (once,
# cached: scripts/test_tools.py); a test that needs one waits. pytest's summary is the last thing printed, with what could not be tested and why.
set -euo pipefail
cd "$(dirname "$0")/.."

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # processes share the cores; threads on top of that make torch slower
python=.venv/bin/python
build= tests=
finish() {
    if [ -n "$build" ]; then kill "$build" 2>/dev/null || true; fi
}
trap finish EXIT
trap : INT # Ctrl-C reaches pytest, too, which stops its servers first
trap 'kill -TERM $tests 2>/dev/null' TERM

if [ $# -gt 0 ]; then
    exec "$python" -m pytest --durations=10 "$@"
fi
# Packages first: they take seconds. What is built with Go (MinIO: 7 minutes) is built beside the tests, which wait for it.
if ! "$python" scripts/test_tools.py --find redis-server promtool chromium >/dev/null 2>&1; then
    "$python" scripts/test_tools.py redis-server promtool chromium >/dev/null || true # the tests say what is missing
fi
if ! "$python" scripts/test_tools.py --find all >/dev/null 2>&1; then
    nice -n 10 "$python" scripts/test_tools.py all >/dev/null & # those that are missing, one by one
    build=$!
fi
"$python" -m pytest --durations=10 -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder &
tests=$!
status=0
while kill -0 "$tests" 2>/dev/null; do wait "$tests" && status=0 || status=$?; done # a trap ends `wait` early
exit "$status"
