# shellcheck shell=bash
# The parts as containers, where a Docker engine answers. Sourced by scripts/services.
# shellcheck disable=SC2154  # root, services: set by scripts/services

docker_works() {
  [[ ${DATA_PATCH_TEST_DOCKER:-} != no ]] && command -v docker >/dev/null &&
    timeout 10 docker info >/dev/null 2>&1
}

container() { printf 'data-patch-test-%s' "$1"; }

# inspect PART TEMPLATE: nothing if there is no such container.
inspect() { timeout 10 docker inspect --type container -f "$2" "$(container "$1")" 2>/dev/null || true; }

# docker_ours PART: whether this checkout made the container. (Its name is one for the whole machine.)
docker_ours() {
  [[ $(state "$1" mode) == docker ]] && docker_works &&
    [[ $(inspect "$1" '{{index .Config.Labels "data-patch.checkout"}}') == "$root" ]]
}

docker_run_postgres() {
  docker run -d --name "$(container postgres)" --label "data-patch.checkout=$root" \
    -p "127.0.0.1:$1:5432" -e POSTGRES_USER=data_patch -e POSTGRES_DB=iota \
    -e POSTGRES_HOST_AUTH_METHOD=trust postgres:16-alpine "${postgres_settings[@]}"
}

docker_run_kafka() {
  local settings=() line
  while read -r line; do
    # a.b.c=x is KAFKA_A_B_C=x to the image
    line="KAFKA_$(tr 'a-z.' 'A-Z_' <<<"${line%%=*}")=${line#*=}"
    settings+=(-e "$line")
  done < <(kafka_settings "$1" 9093 0.0.0.0 | grep -v '^#')
  docker run -d --name "$(container kafka)" --label "data-patch.checkout=$root" \
    -p "127.0.0.1:$1:$1" -e "KAFKA_HEAP_OPTS=-Xmx768m" "${settings[@]}" apache/kafka:4.0.0
}

docker_up() {
  local part=$1 port fresh=''
  local log=$services/$part.docker.log
  : >"$log"
  port=$(inspect "$part" '{{range .HostConfig.PortBindings}}{{(index . 0).HostPort}}{{end}}')
  if [[ -n $port ]]; then
    if [[ $(inspect "$part" '{{.State.Paused}}') == true ]]; then
      docker unpause "$(container "$part")" >>"$log" 2>&1 || true
    elif [[ $(inspect "$part" '{{.State.Running}}') != true ]]; then
      docker start "$(container "$part")" >>"$log" 2>&1 || true
    fi
  else
    port=$(wanted_port "$part" "$("${part}_default_port")") || return 1
    if tcp_open 127.0.0.1 "$port"; then
      if "${part}_answers" "$port"; then
        reuse "$part" "$port"
        return 0
      fi
      loud "$part: port $port is taken by something that is not a usable $part: looking for the next free one"
      port=$(next_free "$((port + 1))")
    fi
    fresh=1
    say "$part: making the container $(container "$part")"
    if ! "docker_run_$part" "$port" >>"$log" 2>&1; then
      loud "$part: docker run failed"
      show_logs "$part.docker.log"
      docker rm -f -v "$(container "$part")" >/dev/null 2>&1 || true
      return 1
    fi
  fi
  if ! wait_ready "$part" "$port" ''; then
    docker logs --tail 50 "$(container "$part")" >>"$log" 2>&1 || true
    loud "$part: the container $(container "$part") does not answer on port $port"
    show_logs "$part.docker.log"
    # One that this very call made is of no use to anyone; an older one is left as it is.
    [[ -z $fresh ]] || docker rm -f -v "$(container "$part")" >/dev/null 2>&1 || true
    return 1
  fi
  if [[ $(inspect "$part" '{{index .Config.Labels "data-patch.checkout"}}') == "$root" ]]; then
    record "$part" docker "$("${part}_url" "$port")" "$port"
    say "$part: runs in the container $(container "$part"): $("${part}_url" "$port")"
  else
    reuse "$part" "$port"
  fi
}

# docker_down PART [--purge]
docker_down() {
  if [[ -n ${2:-} ]]; then
    docker rm -f -v "$(container "$1")" >/dev/null || return 1
    say "$1: container removed"
  else
    docker stop "$(container "$1")" >/dev/null || return 1
    say "$1: container stopped"
  fi
}
