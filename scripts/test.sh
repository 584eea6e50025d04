#!/usr/bin/env bash
# Runs the tests in order unit, integration, e2e (run by `make test`; arguments go to pytest: make test ARGS="tests/unit -k loss").
#
# A full run builds the MinIO server that the S3 tests need in the background where this machine has none (once, cached);
# those tests then come last. pytest's summary is the last thing printed, with what could not be tested and why.
set -euo pipefail
cd "$(dirname "$0")/.."

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # processes share the cores; threads on top of that make torch slower
build=
finish() {
    if [ -n "$build" ]; then kill "$build" 2>/dev/null || true; fi
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

python=.venv/bin/python
if [ $# -eq 0 ] && ! "$python" scripts/minio_server.py --find >/dev/null 2>&1; then
    nice -n 10 "$python" scripts/minio_server.py >/dev/null &
    build=$!
    export STABLEREP_TEST_S3_LAST=1
fi
"$python" -m pytest --durations=10 "$@"
