#!/usr/bin/env bash
# A Ray of its own on this machine, for jobs: everything on loopback, behind a token, and gone afterwards.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: clusters/local.sh up|down|status [--dir DIR] [--fake-gpus N]

  eval "$(clusters/local.sh up)"      start a Ray, and tell this shell how `ray job submit` reaches it
  clusters/local.sh status            say whether it runs, where, and with what
  eval "$(clusters/local.sh down)"    stop it with all that runs on it, remove its folder, and tell this shell

options:
  --dir DIR        its folder: sockets, logs, token; by default /tmp/ldm-scale-UID, another for a second Ray
  --fake-gpus N    GPUs that it pretends to have (up); by default those of the machine

It listens on 127.0.0.1 alone, on free ports, and other Rays of the machine are left alone. Jobs that are submitted by
their path run in the repository. `ray` is the one on the PATH, or else that of the repository's .venv.

exit status: 0 done or running; 1 failed or not running; 2 the command is to be fixed
TEXT
}

say() { printf 'local.sh: %s\n' "$*" >&2; }
fail() { say "error: $1"; exit "${2:-1}"; }
misused() { fail "$1 (see --help)" 2; }

# What Ray appends to the folder, /ray/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_MetricsHead and the
# like, and 107, the most that the address of a Unix socket may have.
longest=$((107 - 74))
variables=(RAY_API_SERVER_ADDRESS RAY_AUTH_MODE RAY_AUTH_TOKEN_PATH)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

find_ray() {
    command -v ray >/dev/null || PATH=$root/.venv/bin:$PATH
    command -v ray >/dev/null || fail "no ray on the PATH nor in $root/.venv: pip install . in a virtual environment"
    # Jobs find the python that Ray runs with.
    PATH=$(dirname "$(command -v ray)"):$PATH
}

# Every process that was started with this Ray has its mark in its environment; Ray's workers overwrite theirs with
# their titles, and are children of one that has it.
processes() {
    local found below
    found=$(grep -lzxF -- "LDM_SCALE_LOCAL_RAY=$folder" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 || true)
    below=$found
    while [[ -n $below ]]; do
        below=$(pgrep -P "${below//$'\n'/,}" || true)
        found+=${below:+$'\n'$below}
    done
    sort -un <<<"$found" | sed '/^$/d'
}

# Wait until none of them is left; false after so many tenths of a second.
none_left() {
    local count
    for ((count = 0; count < $1; count++)); do
        [[ -n $(processes) ]] || return 0
        sleep 0.1
    done
    return 1
}

free_ports() {
    python - <<'PYTHON'
import socket

probes = [socket.socket() for _ in range(5)]
for probe in probes:
    probe.bind(("127.0.0.1", 0))
print(*[probe.getsockname()[1] for probe in probes])
PYTHON
}

# A folder of ours, in which a Ray runs or was left by a machine that went down. What others put there is not read.
ours() { [[ -f $exports && ! -L $folder && -O $folder && -O $exports ]]; }
running() { ours && [[ -n $(processes) ]]; }

make_folder() {
    ! ours || rm -rf "$folder"
    [[ ! -e $folder ]] || rmdir "$folder" 2>/dev/null || misused "--dir $folder exists and is not empty; give another"
    mkdir -m 700 "$folder" || fail "$folder cannot be made"
    (umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$folder/token")
}

start() {
    local gcs dashboard client dashboard_metrics autoscaler_metrics
    read -r gcs dashboard client dashboard_metrics autoscaler_metrics < <(free_ports)
    {
        echo "export RAY_API_SERVER_ADDRESS=http://127.0.0.1:$dashboard"
        echo "export RAY_AUTH_MODE=token"
        printf 'export RAY_AUTH_TOKEN_PATH=%q\n' "$folder/token"
    } >"$exports"
    unset RAY_ADDRESS RAY_AUTH_TOKEN
    # shellcheck source=/dev/null
    source "$exports"
    export DASHBOARD_METRIC_PORT=$dashboard_metrics AUTOSCALER_METRIC_PORT=$autoscaler_metrics
    # Where clusters are not enabled Ray takes the loopback address; elsewhere it would replace it by the machine's own.
    export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0
    # Ray opens its own folder to everyone: it lies in ours. In a session of its own, so that no end of a terminal reaches it.
    (cd "$root" && LDM_SCALE_LOCAL_RAY=$folder setsid --wait ray start --head --disable-usage-stats \
        --temp-dir "$folder/ray" --node-ip-address 127.0.0.1 --dashboard-host 127.0.0.1 --port "$gcs" \
        --dashboard-port "$dashboard" --dashboard-agent-listen-port 0 --ray-client-server-port "$client" \
        ${gpus:+--num-gpus "$gpus"}) </dev/null >"$folder/start.log" 2>&1 || return 1
    local count
    for ((count = 0; count < 60; count++)); do
        ray job list >>"$folder/start.log" 2>&1 && return 0
        sleep 1
    done
    return 1
}

stop() {
    local signal
    for signal in TERM KILL; do
        # Word by word: they are numbers. Some have ended meanwhile.
        # shellcheck disable=SC2046
        kill -s "$signal" $(processes) 2>/dev/null || true
        none_left 30 && rm -rf "$folder" && return
    done
    fail "some of its processes do not end: $(processes | xargs)"
}

up() {
    find_ray
    if running; then
        say "a Ray runs in $folder already"
    else
        ((${#folder} <= longest)) || misused "--dir $folder is longer than $longest characters, too long for Ray's sockets"
        make_folder
        say "starting a Ray in $folder; this takes about ten seconds"
        if ! start; then
            tail -n 20 "$folder/start.log" >&2
            stop
            fail "Ray did not start"
        fi
    fi
    cat "$exports"
    [[ ! -t 1 ]] || say "these lines are for this shell: eval \"\$(clusters/local.sh up)\""
}

down() {
    ours || fail "no Ray runs in $folder"
    stop
    say "stopped; $folder is gone"
    echo "unset ${variables[*]}"
}

status() {
    running || fail "no Ray runs in $folder"
    find_ray
    # shellcheck source=/dev/null
    source "$exports"
    export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 RAY_ADDRESS
    RAY_ADDRESS=$(<"$folder/ray/ray_current_cluster")
    local answer has
    answer=$(ray status 2>/dev/null) || fail "the Ray in $folder does not answer"
    # Ray takes some seconds to count.
    has=$(grep -o '[0-9.]*/[0-9.]* [CG]PU' <<<"$answer" | xargs || true)
    echo "a Ray runs in $folder at $RAY_API_SERVER_ADDRESS; in use: ${has:-not known yet}"
    echo "what is not submitted finds it by RAY_ADDRESS=$RAY_ADDRESS RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0"
}

action=
folder=/tmp/ldm-scale-$(id -u)
gpus=
while (($#)); do
    case $1 in
        up | down | status) [[ -z $action ]] || misused "one of up, down and status at a time"; action=$1 ;;
        --dir) folder=${2-}; [[ -n $folder ]] || misused "--dir: which folder?"; shift ;;
        --fake-gpus) gpus=${2-}; [[ $gpus =~ ^[0-9]+$ ]] || misused "--fake-gpus: how many?"; shift ;;
        -h | --help) usage; exit ;;
        *) misused "what is $1?" ;;
    esac
    shift
done
[[ -n $action ]] || { usage >&2; exit 2; }
[[ -z $gpus || $action == up ]] || misused "--fake-gpus goes with up"
# Absolute, whatever the folder of the caller; its last part need not exist yet.
parent=$(cd "$(dirname "$folder")" 2>/dev/null && pwd) || misused "--dir $folder: no folder to make it in"
folder=${parent%/}/$(basename "$folder")
exports=$folder/local-ray.env
"$action"
