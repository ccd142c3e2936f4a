#!/usr/bin/env bash
# What tpu.sh does on every worker: start a run that outlives the connection, stop it.
#
#   bash launch/worker.sh start [OPTIONS OF local.sh] -- ARGS...
#   bash launch/worker.sh stop
#
# Leaves in the folder of the project: run.log, and in the end run.exit, the exit code.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "$0")/.."
# shellcheck source=launch/common.sh
. launch/common.sh

case ${1:-} in
  start)
    exec 8>>run.lock # held by the run for as long as it lives
    flock -n 8 || fail "a run is going on in $PWD; allowed: stop it first"
    rm -f run.exit run.pid
    shift
    nohup setsid bash launch/worker.sh hold "$@" >run.log 2>&1 </dev/null &
    ;;
  hold)
    shift
    export PYTHONUNBUFFERED=1 PATH="$HOME/.local/bin:$PATH"
    # The images of TPU hosts bring Python 3.10.
    bash launch/local.sh --dry-run "$@" >/dev/null 2>&1 ||
      python3 -m pip install --user --quiet uv || true
    bash launch/local.sh "$@" &
    echo $! >run.pid
    code=0
    wait $! || code=$?
    echo "$code" >run.exit
    echo "exit code $code"
    ;;
  stop)
    exec 8>>run.lock
    if flock -n 8; then
      echo "nothing is running in $PWD"
    elif [ -s run.pid ]; then
      kill -TERM "$(cat run.pid)"
    else
      fail "the run in $PWD is just starting; allowed: stop in a moment"
    fi
    ;;
  --help | -h) usage launch/worker.sh ;;
  *) fail "unknown action ${1:-}; allowed: start, stop" ;;
esac
