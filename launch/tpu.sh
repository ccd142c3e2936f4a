#!/usr/bin/env bash
# Run on a TPU VM, of one host or many, by gcloud.
#
#   bash launch/tpu.sh ACTION --name=N --zone=Z [--project=P] [--dry-run] ...
#
# create  [--type=v5litepod-8] [--version=V] [--spot]: V follows from the type.
# sync    sends what is committed (git archive HEAD) to ~/recraft_jax of every worker;
#         environments, runs and logs there stay.
# run     -- ARGS...: starts `python -m recraft_jax.main --multihost ARGS` on every
#         worker and returns. With several hosts, --workdir is to be where all see it.
# logs    [--worker=0]: follows what the run prints there.
# stop    sends SIGTERM: the run saves and exits with 75; `run` with the same ARGS
#         goes on.
# delete  does not ask.
#
# --dry-run prints the commands and starts nothing.
set -euo pipefail
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=launch/common.sh
. "$root/launch/common.sh"

action=${1:-}
allowed="--name=N, --zone=Z, --project=P, --dry-run"
case $action in
  create) allowed="$allowed, --type=T, --version=V, --spot" ;;
  run) allowed="$allowed, -- ARGS" ;;
  logs) allowed="$allowed, --worker=K" ;;
  sync | stop | delete) ;;
  --help | -h) usage "$0" ;;
  *) fail "unknown action $action; allowed: create, sync, run, logs, stop, delete" ;;
esac
shift

name='' zone='' project='' type=v5litepod-8 version='' spot=no worker=0
while [ $# -gt 0 ]; do
  case "$action $1" in
    *' --name='*) name=${1#*=} ;;
    *' --zone='*) zone=${1#*=} ;;
    *' --project='*) project=${1#*=} ;;
    *' --dry-run') dry_run=yes ;;
    *' --help' | *' -h') usage "$0" ;;
    'create --type='*) type=${1#*=} ;;
    'create --version='*) version=${1#*=} ;;
    'create --spot') spot=yes ;;
    'logs --worker='*) worker=${1#*=} ;;
    'run --') shift && break ;;
    *) fail "unknown option $1 of $action; allowed: $allowed" ;;
  esac
  shift
done
check_name --name "$name"
check_name --zone "$zone"
place=("--zone=$zone")
[ -z "$project" ] || place+=("--project=$project")

tpu() { run gcloud compute tpus tpu-vm "$@" "${place[@]}"; }

# The command crosses ssh: a shell over there reads it.
on_workers() { tpu ssh "$name" --worker="$1" --command="$2"; }

case $action in
  create)
    # https://cloud.google.com/tpu/docs/runtimes
    case $type in
      '' | *[!a-z0-9-]*) fail "--type=$type; allowed: v5litepod-8, for example" ;;
      v[234]-*) known=tpu-ubuntu2204-base ;;
      v5litepod-*) known=v2-alpha-tpuv5-lite ;;
      v5p-*) known=v2-alpha-tpuv5 ;;
      v6e-*) known=v2-alpha-tpuv6e ;;
      *)
        known=$version
        [ -n "$version" ] || fail "--type=$type; allowed: v2-, v3-, v4-, v5litepod-, \
v5p- or v6e- and a number, or --version=V with it"
        ;;
    esac
    options=("--accelerator-type=$type" "--version=${version:-$known}")
    [ "$spot" = no ] || options+=(--spot)
    tpu create "$name" "${options[@]}"
    ;;
  sync)
    file=build/recraft_jax-$name.tar.gz
    run cd "$root"
    archive tar.gz "$file"
    tpu scp "$file" "$name:recraft_jax.tar.gz" --worker=all
    # What an earlier commit had and this one has not must not be left to be imported.
    old=()
    while IFS= read -r -d '' entry; do
      old+=("$entry")
    done < <(git -C "$root" ls-tree -z --name-only HEAD)
    on_workers all "mkdir -p recraft_jax && cd recraft_jax && \
$(words rm -rf -- "${old[@]}") && tar -xzf ../recraft_jax.tar.gz"
    ;;
  run)
    [ $# -gt 0 ] || fail "run without arguments; allowed: -- --config=configs/pde.py, \
for example"
    start=(bash recraft_jax/launch/worker.sh start --extra=tpu -- --multihost "$@")
    on_workers all "$(words "${start[@]}")"
    ;;
  logs)
    case $worker in
      '' | *[!0-9]*) fail "--worker=$worker; allowed: a whole number from 0 up" ;;
    esac
    on_workers "$worker" 'tail -n 100 -F recraft_jax/run.log'
    ;;
  stop) on_workers all 'bash recraft_jax/launch/worker.sh stop' ;;
  delete) tpu delete "$name" --quiet ;;
esac
