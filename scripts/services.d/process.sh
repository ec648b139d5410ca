# shellcheck shell=bash
# Private processes: starting them detached, finding them again, signals. Sourced by scripts/services.
# They are found by their command line in /proc, never by a pid file that may be stale.

# launch OUTPUT COMMAND...: runs COMMAND in a session of its own, cut off from the caller's terminal
# and pipes, and sets $launched to its process id.
launch() {
  local output=$1
  shift
  (
    exec </dev/null >>"$output" 2>&1
    cd /
    # Whatever else the caller has open (our lock, a build tool's pipes) is not handed on.
    for fd in /proc/"$BASHPID"/fd/*; do
      fd=${fd##*/}
      ((fd <= 2)) || eval "exec $fd>&-"
    done
    exec setsid "$@"
  ) &
  # shellcheck disable=SC2034  # read by private_start
  launched=$!
}

# stat_of PID: sets stat_state and stat_parent; fails if there is no such process.
stat_of() {
  local line
  { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
  read -r stat_state stat_parent _ <<<"${line##*) }"
}

# alive PID: the first thread of a killed program may be gone (Z) while others still hold its ports.
alive() {
  local threads
  stat_of "$1" || return 1
  [[ $stat_state == [ZX] ]] || return 0
  threads=("/proc/$1/task"/*)
  ((${#threads[@]} > 1))
}
frozen() { stat_of "$1" && [[ $stat_state == T ]]; }

# find_process NAME ARGUMENT: the process whose program is NAME and one of whose arguments is exactly
# ARGUMENT. A child that was forked just now still looks like its parent, so the parent wins.
find_process() {
  local file pid words word found=' '
  for file in /proc/[0-9]*/cmdline; do
    mapfile -d '' -t words 2>/dev/null <"$file" || continue
    [[ ${#words[@]} -gt 1 && ${words[0]##*/} == "$1" ]] || continue
    for word in "${words[@]:1}"; do
      [[ $word == "$2" ]] || continue
      pid=${file#/proc/}
      found+="${pid%/cmdline} "
      break
    done
  done 2>/dev/null
  for pid in $found; do
    stat_of "$pid" || continue
    [[ $found == *" $stat_parent "* ]] && continue
    printf '%s' "$pid"
    return 0
  done
}

# process_port PID: the port that one of ours was started with, out of its command line.
process_port() {
  tr '\0' '\n' <"/proc/$1/cmdline" | sed -nE 's/^(-Ddata-patch\.)?port=([0-9]+)$/\2/p'
}

# tree PID: it and all its descendants. (PostgreSQL puts each of its processes into a process group
# of its own, so a signal to the group would reach only the first.)
tree() {
  local dir pid next=("$1") all=() grown=1
  local -A parent=()
  for dir in /proc/[0-9]*; do
    pid=${dir#/proc/}
    stat_of "$pid" && parent[$pid]=$stat_parent
  done
  while ((grown)); do
    all+=("${next[@]}")
    local fresh=() known=" ${next[*]} "
    for pid in "${!parent[@]}"; do
      [[ $known == *" ${parent[$pid]} "* ]] && fresh+=("$pid")
    done
    next=("${fresh[@]}")
    grown=${#fresh[@]}
  done
  printf '%s\n' "${all[@]}"
}

# gone SECONDS PID...: waits until none of them lives.
gone() {
  local deadline=$((SECONDS + $1)) pid
  shift
  for pid; do
    while alive "$pid"; do
      ((SECONDS < deadline)) || return 1
      sleep 0.05
    done
  done
}

freeze_tree() {
  local pids tries
  # The first one stops before its children are listed, so that no new child is missed.
  kill -STOP "$1" || return 1
  for ((tries = 0; tries < 100; tries++)); do
    frozen "$1" && break
    sleep 0.02
  done
  mapfile -t pids < <(tree "$1")
  kill -STOP "${pids[@]}" 2>/dev/null || true
  frozen "$1"
}

thaw_tree() {
  local pids
  mapfile -t pids < <(tree "$1")
  kill -CONT "${pids[@]}" 2>/dev/null || true
  alive "$1" && ! frozen "$1"
}

kill_tree() {
  local pids
  freeze_tree "$1" || true
  mapfile -t pids < <(tree "$1")
  kill -KILL "${pids[@]}" 2>/dev/null || true
  gone 20 "${pids[@]}"
}

# stop_part PART PID: an orderly shutdown; what is left after 30 seconds is killed.
stop_part() {
  local pids
  thaw_tree "$2" || true
  mapfile -t pids < <(tree "$2")
  kill "-$("${1}_stop_signal")" "$2" || return 1
  gone 30 "${pids[@]}" && return 0
  loud "$1: no orderly shutdown within 30 seconds: killing it"
  kill_tree "$2"
}
