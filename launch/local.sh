#!/usr/bin/env bash
# Run the program on this machine, in a virtual environment that is made once.
#
#   bash launch/local.sh [--extra=tpu|cuda] [--venv=DIR] [--python=PYTHON]
#       [--module=recraft_jax.main] [--install-only] [--dry-run] -- ARGS...
#
# DIR is .venv in the project. It is made again if it was not finished, and brought up
# to date when setup.py changes; a folder this script did not make is left alone. PYTHON
# is the first of python3, python3.14, ... python3.11 that is 3.11 or newer, or one that
# uv fetches. --dry-run prints the commands and does nothing.
set -euo pipefail
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# shellcheck source=launch/common.sh
. "$root/launch/common.sh"

extra='' venv=$root/.venv python='' module=recraft_jax.main install_only=no
while [ $# -gt 0 ]; do
  case $1 in
    --extra=*) extra=${1#*=} ;;
    --venv=?*) venv=${1#*=} ;;
    --python=?*) python=${1#*=} ;;
    --module=?*) module=${1#*=} ;;
    --install-only) install_only=yes ;;
    --dry-run) dry_run=yes ;;
    --help | -h) usage "$0" ;;
    --) shift && break ;;
    *)
      fail "unknown option $1; allowed: --extra=tpu|cuda, --venv=DIR, \
--python=PYTHON, --module=NAME, --install-only, --dry-run, -- ARGS"
      ;;
  esac
  shift
done
case $extra in
  '' | tpu | cuda) ;;
  *) fail "--extra=$extra; allowed: tpu, cuda" ;;
esac
# Absolute, so that it cannot be taken for an option.
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac

lock=$venv/recraft_jax.lock # also the sign that the folder is ours
made=$venv/recraft_jax.made # written last, a line for each extra
state="$(cksum <"$root/setup.py") $root"

is_made() { grep -qxF -- "${extra:-plain} $state" "$made" 2>/dev/null; }

make_venv() {
  local candidate is_new='import sys; sys.exit(sys.version_info < (3, 11))'
  local candidates=(python3 python3.14 python3.13 python3.12 python3.11)
  [ -z "$python" ] || candidates=("$python")
  for candidate in "${candidates[@]}"; do
    if "$candidate" -c "$is_new" 2>/dev/null; then
      run "$candidate" -m venv "$venv"
      return
    fi
  done
  [ -z "$python" ] || fail "--python=$python; allowed: Python 3.11 or newer"
  command -v uv >/dev/null || fail "no Python 3.11 or newer on the PATH; allowed: \
--python=PYTHON, or uv on the PATH, which fetches one"
  run uv venv --quiet --seed --allow-existing --python=3.12 "$venv"
}

install() {
  local extras=plain other
  local left=("$venv" -mindepth 1 -maxdepth 1 ! -name recraft_jax.lock)
  if [ -s "$made" ]; then
    for other in tpu cuda; do
      ! grep -qxF -- "$other $state" "$made" || extras+=" $other"
    done
  else
    if [ -e "$lock" ] && [ -n "$(find "${left[@]}")" ]; then
      run find "${left[@]}" -exec rm -rf '{}' +
    fi
    make_venv
  fi
  [ "$dry_run" = yes ] || rm -f "$made" # a kill from here on leaves it unfinished
  run "$venv/bin/python" -m pip install --quiet -e "$root${extra:+[$extra]}"
  [ "$dry_run" = yes ] || for other in $extras $extra; do
    echo "$other $state"
  done >"$made"
}

if ! is_made; then
  # In this order: one that starts beside us puts the lock there first.
  if [ -n "$(ls -A "$venv" 2>/dev/null)" ] && [ ! -e "$lock" ]; then
    fail "$venv was not made by this script; allowed: --venv=DIR, a new or empty folder"
  fi
  if [ "$dry_run" = yes ]; then
    install
  else
    mkdir -p "$venv"
    exec 9>>"$lock"
    # Runs that start together make one environment; macOS has no flock.
    ! command -v flock >/dev/null || flock 9
    if ! is_made; then
      echo "installing into $venv (minutes, once)" >&2
      install >&2
    fi
  fi
fi
[ "$install_only" = no ] || exit 0
command=("$venv/bin/python" -m "$module" "$@")
[ "$dry_run" = no ] || { run "${command[@]}" && exit; }
exec "${command[@]}" 9>&- # signals reach the program itself
