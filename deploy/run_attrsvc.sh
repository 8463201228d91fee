#!/usr/bin/env bash
# Runs the service in the background of a host, with its log and process id in a directory.
#   run_attrsvc.sh [start] [DIR]    run_attrsvc.sh stop [DIR]    run_attrsvc.sh status [DIR]        (DIR: ~/nvrx_logs)
# Required: NVRX_ATTRSVC_ALLOWED_ROOT. Optional: every setting of the service, ATTR_ACTORS_BIN, STOP_TIMEOUT_S (60).
set -euo pipefail

case "${1:-start}" in
    start | stop | status)
        command="${1:-start}"
        dir="${2:-$HOME/nvrx_logs}"
        ;;
    *)
        command=start
        dir="$1"
        ;;
esac
[ -n "${ATTR_ACTORS_BIN:-}" ] && PATH="$ATTR_ACTORS_BIN:$PATH"
pid_file="$dir/attrsvc.pid"

running() { [ -s "$pid_file" ] && grep -qa nvrx-attrsvc "/proc/$(cat "$pid_file")/cmdline" 2>/dev/null; }

case "$command" in
    start)
        : "${NVRX_ATTRSVC_ALLOWED_ROOT:?is required: the directory that holds the job logs}"
        running && { echo "runs already: process $(cat "$pid_file")"; exit 0; }
        mkdir -p "$dir"
        setsid nohup nvrx-attrsvc serve >>"$dir/attrsvc.log" 2>&1 </dev/null &
        echo $! >"$pid_file"
        echo "started: process $(cat "$pid_file"), log $dir/attrsvc.log"
        ;;
    status)
        running || { echo "does not run"; exit 1; }
        echo "runs: process $(cat "$pid_file")"
        ;;
    stop)
        running || { echo "does not run"; exit 0; }
        kill -TERM "$(cat "$pid_file")"
        deadline=$((SECONDS + ${STOP_TIMEOUT_S:-60}))
        while running; do
            [ "$SECONDS" -lt "$deadline" ] || { echo "still stopping after ${STOP_TIMEOUT_S:-60} s; see $dir/attrsvc.log"; exit 1; }
            sleep 0.2
        done
        rm -f "$pid_file"
        echo "stopped"
        ;;
esac
