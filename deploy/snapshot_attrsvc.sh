#!/usr/bin/env bash
# Saves what a running service says about itself, once or every SNAPSHOT_INTERVAL seconds, and keeps the newest ones.
#   snapshot_attrsvc.sh [--once] [HOST] [PORT]
# Environment: NVRX_ATTRSVC_HOST (localhost), NVRX_ATTRSVC_PORT (8000), NVRX_ATTRSVC_API_KEY, SNAPSHOT_INTERVAL (600),
# SNAPSHOT_OUTPUT_DIR (~/nvrx_snapshots), SNAPSHOT_KEEP (1008: a week of ten-minute snapshots).
set -euo pipefail

once=0
[ "${1:-}" = --once ] && { once=1; shift; }
host="${1:-${NVRX_ATTRSVC_HOST:-localhost}}"
port="${2:-${NVRX_ATTRSVC_PORT:-8000}}"
dir="${SNAPSHOT_OUTPUT_DIR:-$HOME/nvrx_snapshots}"
keep="${SNAPSHOT_KEEP:-1008}"
mkdir -p "$dir"

# The key goes through a file descriptor, so that it is not seen in the process list.
fetch() {
    curl --silent --show-error --max-time 30 --config <(
        [ -z "${NVRX_ATTRSVC_API_KEY:-}" ] || printf 'header = "Authorization: Bearer %s"\n' "$NVRX_ATTRSVC_API_KEY"
    ) "http://$host:$port$1"
}

snapshot() {
    local place failed=0
    place="$dir/$(date -u +%Y%m%dT%H%M%SZ)"
    mkdir -p "$place"
    for name in healthz stats jobs inflight; do
        fetch "/$name?pretty=true" >"$place/$name.json" || failed=1
    done
    fetch /metrics >"$place/metrics.txt" || failed=1
    find "$dir" -mindepth 1 -maxdepth 1 -type d -name '2*Z' | sort | head -n -"$keep" | xargs -r rm -rf
    echo "$place"
    return "$failed"
}

if [ "$once" = 1 ]; then
    snapshot
    exit
fi
while true; do
    snapshot || echo "the service did not answer everything; going on" >&2
    sleep "${SNAPSHOT_INTERVAL:-600}"
done
