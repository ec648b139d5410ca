# shellcheck shell=bash
# Messages, the recorded state, and questions asked over TCP. Sourced by scripts/services.
# shellcheck disable=SC2154  # root, services: set by scripts/services

# Fetches the jars that a pom.xml names.
# shellcheck disable=SC2034  # read by kafka.sh and elastic.sh
maven_copy=org.apache.maven.plugins:maven-dependency-plugin:3.11.0:copy-dependencies

say() { printf '%s\n' "$*"; }
loud() { printf '\n!!! %s\n\n' "$*" >&2; }
die() {
  loud "$*"
  exit 1
}

# prepare: makes target/services and lets only one command at a time change anything.
prepare() {
  mkdir -p "$services"
  exec {lock}>"$services/lock"
  flock -w 300 "$lock" || die "another scripts/services command has held $services/lock for 5 minutes"
}

# variable PART: DATA_PATCH_TEST_KAFKA, DATA_PATCH_TEST_ELASTICSEARCH_7_17.
variable() {
  local name=${1^^}
  printf 'DATA_PATCH_TEST_%s' "${name//[^A-Z0-9]/_}"
}

# record PART MODE URL PORT: how PART is provided (given, reused, docker, private), where, and the
# port of our own one (kept over `down`, so that the next start gets the same).
record() {
  printf 'mode=%s\nurl=%s\nport=%s\n' "$2" "$3" "$4" >"$services/$1.state.new"
  mv -f "$services/$1.state.new" "$services/$1.state"
}

# state PART KEY: what was recorded, or nothing.
state() {
  [[ -e $services/$1.state ]] || return 0
  sed -n "s/^$2=//p" "$services/$1.state"
}

# shown URL: the same without a password.
shown() { sed -E 's#(://[^:/@]*):[^@]*@#\1:***@#; s#(password=)[^&]*#\1***#' <<<"$1"; }

port_of() {
  local rest=${1#*://}
  rest=${rest%%/*}
  printf '%s' "${rest##*:}"
}

# wanted_port PART DEFAULT: from the environment, or the last one used, or the default.
wanted_port() {
  local name port
  name=$(variable "$1")_PORT
  port=${!name:-}
  [[ -n $port ]] || port=$(state "$1" port)
  port=${port:-$2}
  [[ $port =~ ^[1-9][0-9]{0,4}$ && $port -lt 65000 ]] || die "$name=$port is no usable port"
  printf '%s' "$port"
}

# next_free PORT: the first port from PORT on that nothing listens on.
next_free() {
  local port=$1
  while tcp_open 127.0.0.1 "$port"; do port=$((port + 1)); done
  printf '%s' "$port"
}

tcp_open() {
  # shellcheck disable=SC2016  # expanded by the inner shell
  timeout 5 bash -c 'exec 3<>"/dev/tcp/$1/$2"' _ "$1" "$2" 2>/dev/null
}

# reachable URL: whether the host and port of a given URL or host:port[,...] accept connections.
reachable() {
  local rest=${1#*://} host port=5432
  case $1 in
    http://*) port=80 ;;
    https://*) port=443 ;;
  esac
  rest=${rest%%[/?]*}
  rest=${rest##*@}
  rest=${rest%%,*}
  host=$rest
  if [[ $rest =~ ^(.*):([0-9]+)$ ]]; then
    host=${BASH_REMATCH[1]}
    port=${BASH_REMATCH[2]}
  fi
  host=${host#[}
  tcp_open "${host%]}" "$port"
}

# ask PORT BYTES COUNT: sends BYTES (a printf format) to the port on loopback and prints up to COUNT
# bytes of the answer in hex. Needs no client program, and never hangs on a frozen server.
ask() {
  # shellcheck disable=SC2016,SC2059
  { timeout 5 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$1" && printf "$2" >&3 && head -c "$3" <&3' _ "$@" \
    2>/dev/null || true; } | od -An -v -tx1 | tr -d ' \n'
}

# wait_ready PART PORT PID: until PART answers; fails when the process ends or 5 minutes are over: after a crash Kafka
# first looks through all that it holds.
wait_ready() {
  local deadline=$((SECONDS + 300))
  until "${1}_answers" "$2"; do
    [[ -z $3 ]] || alive "$3" || return 1
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
}

# show_logs NAME...: the ends of these files in target/services.
show_logs() {
  local file
  for file; do
    [[ -s $services/$file ]] || continue
    printf -- '--- end of %s\n' "$services/$file" >&2
    tail -n 25 "$services/$file" >&2
  done
}

# private_up PART: reuses what answers properly on the wanted port, else starts private processes.
private_up() {
  local part=$1 port
  port=$(wanted_port "$part" "$("${part}_default_port")") || return 1
  if tcp_open 127.0.0.1 "$port"; then
    if "${part}_answers" "$port"; then
      reuse "$part" "$port"
      return 0
    fi
    loud "$part: port $port is taken by something that is not a usable $part: looking for the next free one"
    port=$(next_free "$((port + 1))")
  fi
  private_start "$part" "$port"
}

reuse() {
  loud "$1: REUSING the one that already answers on 127.0.0.1:$2; this checkout did not start it" \
    "and will not stop it"
  record "$1" reused "$("${1}_url" "$2")" "$(state "$1" port)"
}

# private_start PART PORT
private_start() {
  local part=$1 port=$2 pid
  "${part}_prepare" "$port" || return 1
  "${part}_launch" "$port" || return 1
  pid=$launched
  record "$part" private "$("${part}_url" "$port")" "$port"
  if ! wait_ready "$part" "$port" "$pid"; then
    loud "$part: did not start on port $port"
    show_logs "$part.log" "$part.out"
    ! alive "$pid" || kill_tree "$pid"
    return 1
  fi
  say "$part: started: $("${part}_url" "$port") (pid $pid, $("${part}_version"))"
}
