#!/usr/bin/env bash
# Runs the service (and with --monitor the Slurm monitor) inside a Slurm allocation or on a host, until it is told to stop.
#
#   SIGTERM, SIGINT   stop: the service drains, what it acknowledged is in the ledger
#   SIGUSR1           stop and requeue the Slurm job: sent by Slurm before the time limit (see slurm.sbatch)
#
# Environment: NVRX_ATTRSVC_ALLOWED_ROOT (required), NVRX_ATTRSVC_PORT (8000), ATTR_ACTORS_STATE (directory of ledger,
# monitor memory and address file; shared by the nodes; default ~/attr-actors), ATTR_ACTORS_BIN (directory of
# nvrx-attrsvc and ray; default: PATH), STOP_TIMEOUT_S (60), and everything that the service and the monitor read.
set -euo pipefail

monitor_wanted=0
[ "${1:-}" = --monitor ] && monitor_wanted=1

[ -n "${ATTR_ACTORS_BIN:-}" ] && PATH="$ATTR_ACTORS_BIN:$PATH"
: "${NVRX_ATTRSVC_ALLOWED_ROOT:?is required: the directory that holds the job logs}"
state="${ATTR_ACTORS_STATE:-$HOME/attr-actors}"
stop_timeout_s="${STOP_TIMEOUT_S:-60}"
mkdir -p "$state"
chmod 700 "$state"
export NVRX_ATTRSVC_CACHE_FILE="${NVRX_ATTRSVC_CACHE_FILE:-$state/ledger.db}"
export NVRX_SMONSVC_STATE_FILE="${NVRX_SMONSVC_STATE_FILE:-$state/monitor.json}"
export NVRX_ATTRSVC_PORT="${NVRX_ATTRSVC_PORT:-8000}"
export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}" RAY_USAGE_STATS_ENABLED=0
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="${RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S:-5}"

log() { printf '%s %s\n' "$(date -u +%FT%TZ)" "$*"; }

reason=""
service="" monitor="" nodes="" requeue=0

# shellcheck disable=SC2317 # The traps call it.
note() {
    reason="$1"
    log "stopping: $1"
}
trap 'note "told to stop"' TERM INT
trap 'note "time limit is near"; requeue=1' USR1

# Ends one child: SIGTERM, and SIGKILL after the time that was granted. A signal to us may interrupt the wait.
end() {
    local pid="$1" deadline=$((SECONDS + stop_timeout_s))
    [ -n "$pid" ] || return 0
    kill -TERM "$pid" 2>/dev/null || return 0
    while kill -0 "$pid" 2>/dev/null; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            log "process $pid did not end within $stop_timeout_s s; killing it"
            kill -KILL "$pid" 2>/dev/null || true
            break
        fi
        sleep 0.2
    done
    wait "$pid" 2>/dev/null || true
}

ready() {
    python3 - "$1" <<'PY'
import sys, urllib.request
try:
    urllib.request.urlopen(sys.argv[1] + "/healthz?ready=true", timeout=4)
except OSError:
    sys.exit(1)
PY
}

# More than one node: a Ray cluster over the allocation, which the service joins; one node: the service brings its own.
start_ray_nodes() {
    local head port
    head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    port="${ATTR_ACTORS_RAY_PORT:-6379}"
    [ -s "$state/ray_token" ] || (umask 077 && python3 -c 'import secrets; print(secrets.token_urlsafe(32))' >"$state/ray_token")
    export RAY_AUTH_TOKEN_PATH="$state/ray_token"
    # shellcheck source=/dev/null
    . "${ATTR_ACTORS_RAY_ENVIRONMENT:-$(dirname "$0")/../cluster_configs/ray_environment.sh}"
    log "starting Ray on $SLURM_JOB_NUM_NODES nodes, head $head"
    # shellcheck disable=SC2016 # Expanded on the nodes.
    srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --kill-on-bad-exit=0 bash -c '
        if [ "$SLURM_NODEID" = 0 ]; then
            exec ray start --head --node-ip-address="$1" --port="$2" --resources='\''{"ledger": 1}'\'' --include-dashboard=false --block
        fi
        exec ray start --address="$1:$2" --block' ray-node "$head" "$port" &
    nodes=$!
    export RAY_ADDRESS="$head:$port" NVRX_ATTRSVC_LEDGER_RESOURCE="${NVRX_ATTRSVC_LEDGER_RESOURCE:-ledger}"
    local deadline=$((SECONDS + 180))
    until ray health-check --address "$RAY_ADDRESS" >/dev/null 2>&1; do
        [ -z "$reason" ] || return 0
        [ "$SECONDS" -lt "$deadline" ] || { log "Ray did not start within 180 s"; return 1; }
        sleep 1
    done
}

[ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ] && start_ray_nodes

url="http://$(hostname -f 2>/dev/null || hostname):$NVRX_ATTRSVC_PORT"
case "${NVRX_ATTRSVC_HOST:-127.0.0.1}" in
    127.* | localhost | ::1) url="http://127.0.0.1:$NVRX_ATTRSVC_PORT" ;;
esac
nvrx-attrsvc serve &
service=$!
printf '%s\n' "$url" >"$state/address"
log "service is process $service, address $url (also in $state/address), ledger $NVRX_ATTRSVC_CACHE_FILE"

if [ "$monitor_wanted" = 1 ]; then
    until ready "http://127.0.0.1:$NVRX_ATTRSVC_PORT" || [ -n "$reason" ] || ! kill -0 "$service" 2>/dev/null; do sleep 1; done
    if [ -z "$reason" ] && kill -0 "$service" 2>/dev/null; then
        export NVRX_ATTRSVC_URL="${NVRX_ATTRSVC_URL:-http://127.0.0.1:$NVRX_ATTRSVC_PORT}"
        nvrx-attrsvc monitor &
        monitor=$!
        log "monitor is process $monitor"
    fi
fi

code=0
if [ -z "$reason" ]; then
    # Ends when a child ends or a signal comes, whichever is first.
    wait -n || code=$?
    [ -n "$reason" ] && code=0
    [ -n "$reason" ] || log "a process ended by itself with exit code $code; stopping the others"
fi
end "$monitor"
end "$service"
end "$nodes"
rm -f "$state/address"
log "stopped"
if [ "$requeue" = 1 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    log "requeueing job $SLURM_JOB_ID"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
