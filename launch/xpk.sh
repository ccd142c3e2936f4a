#!/usr/bin/env bash
# Run on TPU slices of a GKE cluster, by xpk.
#
#   bash launch/xpk.sh --cluster=C --workload=W --tpu-type=T [--num-slices=1]
#       [--image=IMAGE] [--project=P] [--zone=Z] [--dry-run] -- ARGS...
#
# Without --image, xpk puts what is committed (git archive HEAD) on python:3.12 and
# uploads that. An IMAGE is taken as it is: Python 3.11 or newer, this project in its
# working directory. The disk of a pod goes with it, so --workdir is to be on storage
# attached to the cluster (`xpk storage attach`). A workload that was preempted (exit
# code 75) or killed is started again and goes on. --dry-run prints the commands and
# starts nothing.
set -euo pipefail
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=launch/common.sh
. "$root/launch/common.sh"

cluster='' workload='' tpu_type='' num_slices=1 image='' project='' zone=''
while [ $# -gt 0 ]; do
  case $1 in
    --cluster=*) cluster=${1#*=} ;;
    --workload=*) workload=${1#*=} ;;
    --tpu-type=*) tpu_type=${1#*=} ;;
    --num-slices=*) num_slices=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --dry-run) dry_run=yes ;;
    --help | -h) usage "$0" ;;
    --) shift && break ;;
    *)
      fail "unknown option $1; allowed: --cluster=C, --workload=W, --tpu-type=T, \
--num-slices=N, --image=IMAGE, --project=P, --zone=Z, --dry-run, -- ARGS"
      ;;
  esac
  shift
done
check_name --cluster "$cluster"
check_name --workload "$workload"
[ -n "$tpu_type" ] ||
  fail "--tpu-type is missing; allowed: --tpu-type=T, for example v5litepod-16"
case $num_slices in
  '' | 0* | *[!0-9]*)
    fail "--num-slices=$num_slices; allowed: a whole number from 1 up"
    ;;
esac
[ $# -gt 0 ] || fail "no arguments; allowed: -- --config=configs/pde.py, for example"

# Quote one argument for the command of a pod, in which Kubernetes itself reads $(NAME)
# and $$: no dollar of ours may stand before either. xpk puts it into YAML, one line.
quote_for_pod() {
  local word body
  printf -v word '%q' "$1"
  case $word in
    \$\'*)
      body=${word#??}
      word="\$'${body//\$/\\044}"
      ;;
  esac
  printf ' %s' "$word"
}

# exec: xpk sends SIGTERM to its own child, which is to be the program.
command='exec bash launch/local.sh --extra=tpu -- --multihost'
for argument in "$@"; do command+=$(quote_for_pod "$argument"); done

options=("--cluster=$cluster" "--workload=$workload" "--tpu-type=$tpu_type")
options+=("--num-slices=$num_slices")
[ -z "$project" ] || options+=("--project=$project")
[ -z "$zone" ] || options+=("--zone=$zone")
run cd "$root"
if [ -n "$image" ]; then
  options+=("--docker-image=$image")
else
  folder=build/xpk-$workload
  archive tar "$folder.tar"
  run rm -rf "$folder"
  run mkdir "$folder"
  run tar -xf "$folder.tar" -C "$folder"
  options+=(--base-docker-image=python:3.12 "--script-dir=$folder")
fi
# xpk starts again by itself what was killed, but not after an exit code of a program.
options+=(--max-restarts=10 --restart-on-exit-codes=75)
options+=(--termination-grace-period-seconds=120)
run xpk workload create "${options[@]}" "--command=$command"
