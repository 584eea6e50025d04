#!/usr/bin/env bash
# Makes the virtual environment .venv with everything in requirements.lock (run by `make`; asks nothing).
#
# Needs Python 3.11 or newer with venv, disk space and a package index: the one pip is configured for, else PyPI.
# PYTHON=/path/to/python chooses the interpreter. The file .venv/.installed is written last: without it, `make` runs this again.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=.venv
# Measured on Linux x86-64, where torch comes with its CUDA libraries; macOS has none (estimated).
if [ "$(uname -s)" = Darwin ]; then NEED_GB=3 DOWNLOAD="about 1 GB"; else NEED_GB=8 DOWNLOAD="about 3.3 GB"; fi

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.14 python3; do
        if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    echo "setup: Python 3.11 or newer with the venv module is needed, and none was found on PATH." >&2
    echo "       Debian and Ubuntu: apt install python3-venv. macOS: brew install python." >&2
    echo "       Or name one: make PYTHON=/path/to/python3.12 ..." >&2
    return 1
}

# What pip is configured with (environment first, then its files); empty when it is not.
pip_setting() {
    local variable
    variable="PIP_$(echo "$1" | tr 'a-z-' 'A-Z_')"
    if [ -n "${!variable:-}" ]; then echo "${!variable}"; return; fi
    "$VENV/bin/python" -m pip config get "install.$1" 2>/dev/null ||
        "$VENV/bin/python" -m pip config get "global.$1" 2>/dev/null || true
}

# uv does not read pip's configuration; a machine that is set up for pip should need nothing more.
adopt_pip_settings() {
    local index extra certificates
    index=$(pip_setting index-url) extra=$(pip_setting extra-index-url) certificates=$(pip_setting cert)
    if [ -n "$index" ] && [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then export UV_DEFAULT_INDEX="$index"; fi
    if [ -n "$extra" ] && [ -z "${UV_INDEX:-}${UV_EXTRA_INDEX_URL:-}" ]; then export UV_INDEX="$extra"; fi
    if [ -n "$certificates" ] && [ -z "${SSL_CERT_FILE:-}" ]; then export SSL_CERT_FILE="$certificates"; fi
}

free_gb() {
    local folder=$1
    while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
    df -Pk "$folder" | awk 'NR == 2 { print int($4 / 1048576) }'
}

# Says what is about to be downloaded, and stops early where it would not fit.
announce() {
    local plan downloads folder
    plan=$("$VENV/bin/uv" pip install --dry-run --python "$VENV/bin/python" -r requirements.lock 2>&1) || {
        echo "$plan" >&2
        return 1
    }
    downloads=$(echo "$plan" | sed -n 's/^Would download \([0-9]*\) package.*/\1/p')
    if [ -z "$downloads" ]; then
        echo "setup: every package is here already or in uv's cache; nothing to download."
        return
    fi
    echo "setup: $downloads packages to download, $DOWNLOAD if none is cached (most of it torch); ${NEED_GB} GB of disk."
    if [ "$downloads" -lt 100 ]; then return; fi
    for folder in "$PWD" "$("$VENV/bin/uv" cache dir)"; do
        if [ "$(free_gb "$folder")" -lt "$NEED_GB" ]; then
            echo "setup: only $(free_gb "$folder") GB are free at $folder, $NEED_GB GB are needed. Make room and run it again;" >&2
            echo "       UV_CACHE_DIR moves uv's cache to another disk." >&2
            return 1
        fi
    done
}

python=$(find_python)
rm -f "$VENV/.installed"
if ! "$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then rm -rf "$VENV"; fi
if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "setup: creating $VENV with $("$python" --version) ($python)"
    "$python" -m venv "$VENV"
fi
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'
adopt_pip_settings
announce
# Compiled once here: where Python writes no bytecode of its own, every process would compile torch again (20 s).
"$VENV/bin/uv" pip install --compile-bytecode --python "$VENV/bin/python" -r requirements.lock
"$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python" --no-deps -e '.[dev]'
touch "$VENV/.installed"
echo "setup: done"
