#!/bin/sh
# Two instances of ELIDA, one Redis and a demo provider on this machine, without containers. Their files are in a
# temporary folder, which is removed at the end.
#   docker/fleet/run.sh [ELIDA]     ELIDA: the program, by default bin/elida
# Ports: FLEET_PROXY_1, FLEET_CONTROL_1, FLEET_PROXY_2, FLEET_CONTROL_2, FLEET_REDIS_PORT, FLEET_PROVIDER_PORT.
set -eu

fail() {
    echo "fleet: $*" >&2
    exit 1
}

here=${0%/*}
elida=${1:-$here/../../bin/elida}
command -v redis-server >/dev/null 2>&1 ||
    fail "redis-server is missing: install it (apt-get install redis-server, brew install redis)"
[ -x "$elida" ] || fail "$elida is not there: build it (just build)"

proxy_1=127.0.0.1:${FLEET_PROXY_1:-8080} control_1=127.0.0.1:${FLEET_CONTROL_1:-9090}
proxy_2=127.0.0.1:${FLEET_PROXY_2:-8081} control_2=127.0.0.1:${FLEET_CONTROL_2:-9091}
redis_port=${FLEET_REDIS_PORT:-6390} provider=127.0.0.1:${FLEET_PROVIDER_PORT:-9100}

# The folder contains the Redis password, keys and the history: only this user may read it.
umask 077
folder=$(mktemp -d "${TMPDIR:-/tmp}/elida-fleet.XXXXXX")
processes=""

# Instances first: they still write to Redis.
finish() {
    trap '' HUP INT TERM
    trap - EXIT
    for process in $processes; do
        kill -INT "$process" 2>/dev/null || :
        wait "$process" 2>/dev/null || :
    done
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 0' HUP INT TERM

# start NAME COMMAND...: starts it in the background with its output in the folder, and sets $process. The last one
# started is stopped first.
start() {
    name=$1
    shift
    "$@" >"$folder/$name.log" 2>&1 &
    process=$!
    processes="$process $processes"
}

# await NAME COMMAND...: waits until the command succeeds, while the process just started is alive, at most 30 s.
await() {
    name=$1 left=300
    shift
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        if [ "$left" = 0 ] || ! kill -0 "$process" 2>/dev/null; then
            tail -n 5 "$folder/$name.log" >&2
            fail "$name did not start; its last words are above. Ports in use? $here/run.sh names the variables"
        fi
        sleep 0.1
    done
}

instance() {
    start "$1" env ELIDA_LISTEN="$2" ELIDA_CONTROL_LISTEN="$3" ELIDA_DATA_DIR="$folder/$1" \
        FLEET_BACKEND="http://$provider" FLEET_REDIS="127.0.0.1:$redis_port" \
        FLEET_REDIS_PASSWORD_FILE="$folder/password" "$elida" run -c "$here/elida.yaml"
    await "$1" is_shared "$1" "http://$3"
}

# is_shared NAME CONTROL: the instance has its own ports (another program could answer there), is connected to Redis, and
# is ready.
is_shared() {
    grep -q "redis answers" "$folder/$1.log" && "$elida" healthcheck --control "$2"
}

od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$folder/password"
cat >"$folder/redis.conf" <<END
bind 127.0.0.1
port $redis_port
requirepass $(cat "$folder/password")
dir "$folder"
save ""
maxmemory-policy noeviction
END
start redis redis-server "$folder/redis.conf"
await redis grep -q "Ready to accept connections" "$folder/redis.log"
start provider "$elida" demo --only-provider "$provider"
await provider grep -q "demo provider on" "$folder/provider.log"
instance elida-1 "$proxy_1" "$control_1"
instance elida-2 "$proxy_2" "$control_2"

cat <<END
One fleet of two instances, with one Redis and a demo provider:

  instance 1: proxy http://$proxy_1, control http://$control_1
  instance 2: proxy http://$proxy_2, control http://$control_2

Stream through instance 1:

  curl -sN http://$proxy_1/v1/messages -H 'X-Session-ID: one' -d '{"model":"claude-demo","max_tokens":999,"stream":true,"messages":[{"role":"user","content":"[[words 500]]"}]}'

and meanwhile, in another terminal, see it and kill it through instance 2:

  curl -s http://$control_2/control/sessions
  curl -s -X POST http://$control_2/control/sessions/one/kill -d '{"reason":"runaway"}'

Logs: $folder/*.log. End with Ctrl-C.
END
wait
