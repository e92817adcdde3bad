#!/bin/sh
# Make .venv from requirements-dev.lock. Called by `make setup`, and so by every other target, which
# is why it must cost next to nothing when there is nothing to do.
#
# Looks for every tool first and names all that are missing, before it touches anything.
set -eu
cd "$(dirname "$0")/../.."

fits() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
        if fits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
}

java_major() {
    # 'openjdk version "17.0.15" 2025-04-15' gives 17; Java 8 calls itself "1.8.0" and gives 1.
    java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1
}

missing=""
need() {
    missing="$missing  - $1
"
}

python=$(find_python)
if [ -z "$python" ]; then
    need "Python 3.11 or newer${PYTHON:+ (PYTHON=$PYTHON is not one)}.
    Debian, Ubuntu: apt-get install python3.11 python3.11-venv    macOS: brew install python@3.11
    Installed elsewhere? Name it: make PYTHON=/path/to/python3.11"
elif ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    need "the venv module of $python.
    Debian, Ubuntu: apt-get install python$version-venv"
fi
# Only our own broker needs Java and Maven.
if [ -z "${KAFKA_BOOTSTRAP_SERVERS:-}" ]; then
    java=$(java_major)
    if [ "${java:-0}" -lt 17 ]; then
        need "Java 17 or newer${java:+ (found Java $java)}, which runs Kafka.
    Debian, Ubuntu: apt-get install openjdk-17-jre-headless       macOS: brew install openjdk@17"
    fi
    if ! mvn -v >/dev/null 2>&1 && ! command -v mvn >/dev/null 2>&1; then
        need "Maven (mvn), which downloads Kafka.
    Debian, Ubuntu: apt-get install maven                         macOS: brew install maven"
    fi
fi
if [ -n "$missing" ]; then
    printf 'Missing on this machine:\n%s' "$missing" >&2
    [ -n "${KAFKA_BOOTSTRAP_SERVERS:-}" ] ||
        echo "With a Kafka of your own (KAFKA_BOOTSTRAP_SERVERS=host:port) Java and Maven are not needed." >&2
    exit 1
fi

# What .venv was made from. Two terminals may run make at once: the second waits and finds it done.
wanted=$("$python" - <<'PY'
import hashlib, pathlib, sys
made_from = hashlib.sha256(sys.version.encode())
for name in ("requirements-dev.lock", "pyproject.toml"):
    made_from.update(pathlib.Path(name).read_bytes())
print(made_from.hexdigest())
PY
)
stamp=.venv/setup.stamp
[ "$(cat $stamp 2>/dev/null)" != "$wanted" ] || exit 0

mkdir -p build
if [ -z "${CHECK_DEDUP_SETUP_LOCKED:-}" ]; then
    # The lock goes when the process does, however it ends.
    CHECK_DEDUP_SETUP_LOCKED=1 exec "$python" -c '
import fcntl, subprocess, sys
with open("build/setup.lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    sys.exit(subprocess.call(["sh", sys.argv[1]]))' deploy/local/setup.sh
fi

started=$(date +%s)
echo "Making .venv with $("$python" --version) ..."
# Another Python, or a half-made folder: start again. The packages themselves come from the cache.
if ! fits .venv/bin/python || [ ! -f "$stamp" ]; then
    "$python" -m venv --clear .venv
fi
rm -f "$stamp"
log=build/setup.log
install() {
    # uv takes 9 s where pip takes 44, but knows nothing of a mirror or proxy that is set up for pip.
    sed -n '/^uv==/,/[^\\]$/p' requirements-dev.lock >build/uv.lock
    .venv/bin/python -m pip install --quiet --require-hashes -r build/uv.lock &&
        .venv/bin/uv pip sync --quiet --python .venv/bin/python --require-hashes \
            requirements-dev.lock >"$log" 2>&1 ||
        {
            echo "uv could not install the packages (see $log); trying pip, which is slower ..."
            .venv/bin/python -m pip install --quiet --require-hashes -r requirements-dev.lock
        }
    .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
}
install
echo "$wanted" >"$stamp"
echo "Set-up done in $(($(date +%s) - started)) s."
