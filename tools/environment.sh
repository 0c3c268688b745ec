#!/bin/sh
# Makes a virtual environment and installs into it; the Makefile calls it.
#   tools/environment.sh [--site] FOLDER ANY|3.13 [arguments of `pip install`]
# The package comes into it too, except with --site. That also leaves out compiling all
# that is installed, which takes longer than the one build of the site.
# With uv when there is one, otherwise with plain venv and pip. The interpreter is the
# first of $PYTHON, python3.13, python3.12, python3.11 and python3 that runs (a name on
# the PATH may be a stub that does not) and is 3.11, 3.12 or 3.13.
set -eu
site=
if [ "$1" = --site ]; then
    site=yes
    shift
fi
folder=$1 wanted=$2
shift 2

fits() {    # does this command run, and is it a Python that we want?
    "$1" -c "import sys; sys.exit('.'.join(map(str, sys.version_info[:2])) not in '$2'.split())" \
        >/dev/null 2>&1
}

find_python() {
    for name in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        if command -v "$name" >/dev/null 2>&1 && fits "$name" "$1"; then
            command -v "$name"
            return
        fi
    done
    [ -z "${PYTHON:-}" ] || return 1
    for version in $1; do       # not on the PATH: what uv and pyenv know of
        if command -v uv >/dev/null 2>&1 &&
            path=$(uv python find --no-project --no-python-downloads "$version" 2>/dev/null) &&
            fits "$path" "$1"; then
            echo "$path"
            return
        fi
        for path in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version"*/bin/python; do
            if fits "$path" "$1"; then
                echo "$path"
                return
            fi
        done
    done
    return 1
}

python=
if [ "$wanted" != ANY ]; then
    python=$(find_python "$wanted") ||
        echo "No Python $wanted here: taking another one. What needs $wanted is not tested."
fi
if [ -z "$python" ] && ! python=$(find_python "3.13 3.12 3.11"); then
    echo "This book needs Python 3.11, 3.12 or 3.13, and found none that runs" >&2
    echo "(tried: ${PYTHON:-python3.13 python3.12 python3.11 python3})." >&2
    echo "Install one, or name it: make book PYTHON=/path/to/python3.13" >&2
    exit 1
fi
echo "Environment $folder: $("$python" --version) at $python"

# Another interpreter than last time, or a half-made folder: start again.
version=$("$python" -c 'import sys; print(sys.version_info[:2])')
if [ -e "$folder" ] && [ "$("$folder/bin/python" -c \
    'import sys; print(sys.version_info[:2])' 2>/dev/null)" != "$version" ]; then
    rm -rf "$folder"
fi

# pip as a reader wants to see it: errors, and not what it says of its own settings.
quiet_pip() {
    said=$(mktemp)
    status=0
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@" \
        2>"$said" || status=$?
    grep -v -e '^WARNING: \(Location\|Url\) .* is ignored' \
        -e "^WARNING: Running pip as the 'root' user" \
        -e '^WARNING: The directory .* or its parent directory is not owned' \
        "$said" >&2 || true
    rm -f "$said"
    return $status
}

if command -v uv >/dev/null 2>&1; then
    seed=--seed
    [ -z "$site" ] || seed=
    [ -e "$folder" ] ||
        uv venv --quiet $seed --no-project --python "$python" "$folder"
    uv pip install --quiet --python "$folder/bin/python" "$@"
    [ -n "$site" ] || uv pip install --quiet --python "$folder/bin/python" \
        --no-deps --no-build-isolation -e .
else
    # Also over a folder that uv made: this adds pip to it.
    "$python" -m venv "$folder" || {
        echo "venv failed. On Debian and Ubuntu: sudo apt-get install python3-venv" >&2
        exit 1
    }
    # pip would compile one file after the other.
    quiet_pip --no-compile "$@"
    if [ -z "$site" ]; then
        "$folder/bin/python" -m compileall -q -j 0 "$folder"/lib/python3*/site-packages \
            >/dev/null 2>&1 || true     # packages hold templates that are not Python
        quiet_pip --no-deps --no-build-isolation -e .
    fi
fi
