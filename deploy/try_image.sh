#!/usr/bin/env bash
# Starts the service in a built image's root file system as the image's user, with that file system read-only, and asks it.
#   try_image.sh ROOT_DIRECTORY LOG_DIRECTORY          (as root; ROOT_DIRECTORY: `buildah mount $(buildah from IMAGE)`)
# Needs neither a container runtime nor a network: a mount, process and network namespace of its own.
set -euo pipefail
root="$1" logs="$2"

# shellcheck disable=SC2016 # Expanded inside the namespaces.
exec unshare --mount --pid --net --fork --kill-child bash -euc '
    root="$1" logs="$2"
    mount --bind "$root" "$root"
    mount --bind "$logs" "$root/logs"
    for dir in tmp dev/shm var/lib/attr-actors; do
        mkdir -p "$root/$dir"
    done
    mount -t proc proc "$root/proc"
    mount -t tmpfs tmpfs "$root/dev"
    mkdir "$root/dev/shm"
    for device in null zero random urandom full; do
        touch "$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
    ln -s /proc/self/fd "$root/dev/fd"
    mount -t tmpfs -o mode=1777,size=1g tmpfs "$root/dev/shm"
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    mount -t tmpfs -o uid=10001,gid=10001,mode=0750 tmpfs "$root/var/lib/attr-actors"
    mount -o remount,ro,bind "$root/logs"
    mount -o remount,ro,bind "$root"
    ip link set lo up
    inside=(chroot "$root" setpriv --reuid 10001 --regid 10001 --clear-groups --inh-caps=-all --no-new-privs env -i
        PATH=/opt/attr-actors/bin:/usr/bin:/bin HOME=/tmp RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
        NVRX_ATTRSVC_ALLOWED_ROOT=/logs NVRX_ATTRSVC_CACHE_FILE=/var/lib/attr-actors/ledger.db)
    "${inside[@]}" sh -c "id; touch /usr/probe 2>&1 || true; touch /logs/probe 2>&1 || true"
    "${inside[@]}" nvrx-attrsvc --version
    "${inside[@]}" nvrx-attrsvc &
    service=$!
    for _ in $(seq 120); do
        "${inside[@]}" wget -q -T 4 -O /dev/null "http://127.0.0.1:8000/healthz?ready=true" && break
        kill -0 "$service" || exit 1
        sleep 1
    done
    for log in "$logs"/*; do
        "${inside[@]}" wget -q -T 60 -O - "http://127.0.0.1:8000/logs?log_path=/logs/$(basename "$log")" | head -c 600
        echo
    done
    "${inside[@]}" ls -l /var/lib/attr-actors
    kill -TERM "$service"
    code=0
    wait "$service" || code=$?
    echo "the service ended with exit code $code"
    exit "$code"
' try-image "$root" "$logs"
