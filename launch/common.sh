# What the scripts of this folder share. Sourced by them, not run.
# shellcheck shell=bash

dry_run=no

# Say in one line what is wrong and what is allowed.
fail() {
  printf 'error: %s\n' "${1//$'\n'/ }" >&2
  exit 2
}

# Print the comment a script starts with.
usage() {
  awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$1"
  exit 0
}

# Quote one argument for a shell, on one line whatever is in it.
quote() {
  case $1 in
    '') printf "''" ;;
    *[![:print:]]*) printf '%q' "$1" ;;
    *[![:alnum:]_./:=,@%+-]*)
      # In variables, because versions of bash differ in what they read in place.
      local one="'" four="'\\''"
      printf "'%s'" "${1//$one/$four}"
      ;;
    *) printf '%s' "$1" ;;
  esac
}

# Quote a command.
words() {
  local word sign=''
  for word in "$@"; do
    printf '%s' "$sign"
    quote "$word"
    sign=' '
  done
}

# Do a command, or print it where nothing is to be started.
run() {
  if [ "$dry_run" = yes ]; then
    words "$@"
    echo
  else
    "$@"
  fi
}

# Refuse a name that could be read as an option, a path or two words.
check_name() {
  case $2 in
    '') fail "$1 is missing; allowed: $1=NAME" ;;
    [!a-z]* | *[!a-z0-9-]*)
      fail "$1=$2; allowed: lower-case letters, digits and dashes, a letter first"
      ;;
  esac
}

# Put what is committed into an archive. What is not stays behind, and is counted.
# Usage: archive FORMAT FILE, where $root is the project and the current folder.
archive() {
  local changes
  : "${root:?}"
  changes=$(git -C "$root" status --porcelain | wc -l)
  if [ "$((changes))" -gt 0 ]; then
    echo "note: only what is committed is sent; files that are not: $((changes))" >&2
  fi
  run mkdir -p build
  run git archive --format="$1" --output="$2" HEAD
}
