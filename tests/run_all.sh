#!/usr/bin/env bash
# Everything that proves this repository works, in order, with the time each part took.
# Called by `make test`. A part that fails does not keep the later ones from running; only a failed
# set-up does. Ends with pytest's own closing lines; exit status 1 when any part failed.
set -uo pipefail
cd "$(dirname "$0")/.."

logs=build/test
rm -rf "$logs" && mkdir -p "$logs"
table=""
failed=0

# Commands that the tests use, and the Debian packages that have them. kcat reads our topics: a client
# that is neither ours nor written in Python. Chromium sees the page as people do. Prometheus scrapes
# our processes; its promtool tests the alert rules.
debian=(
    kcat=kcat chromium=chromium chromedriver=chromium-driver
    prometheus=prometheus promtool=prometheus
)

part() {
    local name=$1 started=$SECONDS result=passed
    shift
    printf '\n### %s\n' "$name"
    "$@" 2>&1 | tee "$logs/$name.log" || { result=FAILED && failed=1; }
    table+=$(printf '%-12s %-7s %5d s' "$name" "$result" $((SECONDS - started)))$'\n'
    [ "$result" = passed ]
}

set_up() {
    make setup || return
    local wanted missing=""
    for wanted in "${debian[@]}"; do
        command -v "${wanted%%=*}" >/dev/null || missing+=" ${wanted##*=}"
    done
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "Missing:$missing. Debian, Ubuntu: apt-get install$missing"
        return 1
    fi
    local get="apt-get -qq install --no-install-recommends --yes$missing" log=$logs/debian.log
    DEBIAN_FRONTEND=noninteractive $get >"$log" 2>&1 ||
        { apt-get -qq update && DEBIAN_FRONTEND=noninteractive $get; } >>"$log" 2>&1 ||
        { echo "could not be installed:$missing" && tail "$log" && return 1; }
}

if part set-up set_up; then
    part check env PYTEST_ADDOPTS=--junitxml=$PWD/$logs/check.xml make check
    part integration .venv/bin/python -m pytest --junitxml=$logs/integration.xml tests/integration
    part faults .venv/bin/python -m pytest --durations=0 --durations-min=1 \
        --junitxml=$logs/faults.xml tests/faults
    part operations .venv/bin/python -m pytest tests/operations
fi

printf '\n### times\n%s%-12s %-7s %5d s\n\n' "$table" all "" "$SECONDS"
for name in check integration faults operations; do
    [ ! -f "$logs/$name.log" ] || printf '%-12s %s\n' "$name" "$(tail -n 1 "$logs/$name.log")"
done
exit "$failed"
