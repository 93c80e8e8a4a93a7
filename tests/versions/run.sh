#!/usr/bin/env bash
# The tests that matter, with the oldest versions that pyproject.toml allows on Python 3.11, and with the newest on the
# newest Python that is found here. Each in an environment of its own: .venv-oldest, .venv-newest.
set -euo pipefail
cd "$(dirname "$0")/../.."
tests="tests/catalog tests/scene tests/model tests/store tests/plan tests/test_job.py tests/end_to_end/test_end_to_end.py"

newest() {
    local version found
    for version in 3.14 3.13 3.12; do
        for found in "$(command -v "python$version" || true)" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
            if [ -x "$found" ]; then echo "$found" && return; fi
        done
    done
    return 1
}

try() { # NAME PYTHON pip's arguments…
    local venv=.venv-$1 python=$2
    shift 2
    echo "== $venv: $("$python" --version)"
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "$@"
    "$venv/bin/pip" check
    # Warnings of versions that nobody pinned are not ours to mend: they are shown, and no errors.
    # shellcheck disable=SC2086  # One word per path is meant.
    CLOUDJOB_SHARED=${CLOUDJOB_SHARED:-../shared} "$venv/bin/pytest" -q -n 2 --dist loadfile -W default $tests
}

wanted=${1:-both}
if [ "$wanted" != newest ]; then
    "${PYTHON:-python3}" -m venv .venv-oldest
    .venv-oldest/bin/pip install --quiet --disable-pip-version-check packaging
    .venv-oldest/bin/python tests/versions/floors.py >.venv-oldest/floors.txt
    try oldest "${PYTHON:-python3}" --constraint .venv-oldest/floors.txt --editable '.[dev]' --requirement training/requirements.txt
fi
if [ "$wanted" != oldest ]; then
    python=$(newest) || { echo "no Python newer than 3.11 is here: nothing to try" >&2; exit 1; }
    try newest "$python" --upgrade --editable '.[dev]' --requirement training/requirements.txt
fi
