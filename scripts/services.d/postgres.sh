# shellcheck shell=bash
# A private PostgreSQL cluster. Sourced by scripts/services.
# shellcheck disable=SC2154  # root, services: set by scripts/services

# Throw-away data: no waiting for the disk. One time zone and locale wherever the server comes from.
postgres_settings=(
  -c fsync=off -c max_connections=300 -c shared_buffers=256MB -c timezone=UTC -c log_timezone=UTC
)

postgres_default_port() { printf 25432; }
postgres_url() { printf 'postgres://data_patch@127.0.0.1:%s/iota' "$1"; }
postgres_mark() { printf PG_VERSION; }
postgres_stop_signal() { printf INT; } # "fast": ends the sessions, writes a checkpoint

# postgres_answers PORT: logs in as data_patch to iota without a password and says good-bye. Only a real
# server where that works gets as far as ReadyForQuery.
postgres_answers() {
  local hello='\0\0\0\x27\0\003\0\0user\0data_patch\0database\0iota\0\0' bye='X\0\0\0\004'
  [[ $(ask "$1" "$hello$bye" 4000) == *5a0000000549* ]]
}

# postgres_user: whom the server runs as when we are root, which PostgreSQL refuses.
postgres_user() {
  local user
  for user in postgres nobody; do
    if id -u "$user" >/dev/null 2>&1; then
      printf '%s' "$user"
      return 0
    fi
  done
  return 1
}

# as_server COMMAND...: COMMAND as the user who owns the cluster.
as_server() { (cd / && exec "${as_user[@]}" "$@"); }
as_user=()
choose_user() {
  local user
  as_user=(env)
  ((EUID == 0)) || return 0
  user=$(postgres_user) || return 1
  as_user=(setpriv "--reuid=$user" "--regid=$(id -g "$user")" --clear-groups -- env HOME=/)
}

# postgres_home: target/services/postgres, or, where the plain user can't get there, a directory
# outside that a link in target/services leads to.
postgres_home() {
  local home=$services/postgres dir=$services
  while [[ ! -d $dir ]]; do dir=${dir%/*}; done
  if [[ -L $home ]]; then
    readlink "$home"
  elif [[ -d $home ]] || ((EUID != 0)) || ! choose_user || as_server test -x "$dir"; then
    printf '%s' "$home"
  else
    printf '/var/tmp/data-patch-%s' "$(sha256sum <<<"$root" | cut -c1-16)"
  fi
}

postgres_data() { printf '%s/data' "$(postgres_home)"; }
postgres_pid() { find_process postgres "$(postgres_data)"; }

postgres_purge() {
  local home
  home=$(postgres_home)
  rm -rf "$home" "$services/postgres" "$services"/postgres.*log
}

# postgres_bin: the folder of the newest server binaries, or nothing.
postgres_bin() {
  local dir
  for dir in "$(pg_config --bindir 2>/dev/null || true)" \
    $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV) /usr/pgsql-*/bin \
    "$(dirname "$(command -v postgres || true)" 2>/dev/null || true)"; do
    if [[ -n $dir && -x $dir/postgres && -x $dir/initdb ]]; then
      printf '%s' "$dir"
      return 0
    fi
  done
}

postgres_version() { "$(postgres_bin)/postgres" --version; }

postgres_install() {
  local log=$services/postgres.install.log
  if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    loud "postgres: PostgreSQL's server programs (postgres, initdb) are missing." \
      "Install them (Debian: apt-get install postgresql), or set DATA_PATCH_TEST_POSTGRES."
    return 1
  fi
  say 'postgres: no server programs found: installing the package postgresql'
  if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y postgresql; } \
    </dev/null >"$log" 2>&1 || [[ -z $(postgres_bin) ]]; then
    loud 'postgres: apt-get could not install postgresql'
    show_logs postgres.install.log
    return 1
  fi
}

# postgres_prepare PORT: the programs, the user and the cluster with the role and the database.
postgres_prepare() {
  local bin home data log=$services/postgres.init.log
  [[ -n $(postgres_bin) ]] || postgres_install || return 1
  bin=$(postgres_bin)
  if ! choose_user; then
    loud 'postgres: running as root, and neither a user postgres nor nobody exists'
    return 1
  fi
  home=$(postgres_home)
  data=$home/data
  if [[ $home != "$services/postgres" ]]; then
    # In a folder that all may write to, only one of our own making will do.
    if [[ -L $home ]] || { [[ -e $home ]] && [[ ! -O $home ]]; }; then
      loud "postgres: $home exists, but belongs to someone else"
      return 1
    fi
    mkdir -p "$home" && ln -sfn "$home" "$services/postgres" || return 1
  fi
  mkdir -p "$home" || return 1

  if [[ ! -e $data/PG_VERSION ]]; then
    rm -rf "$data" "$data.new"
    mkdir -m 700 "$data.new" || return 1
    if ((EUID == 0)); then chown "$(postgres_user):" "$data.new" || return 1; fi
    # The database is made before the cluster moves to its place: half a cluster is never left there.
    if ! { as_server "$bin/initdb" -D "$data.new" -U data_patch -A trust -E UTF8 --locale=C --no-sync &&
      as_server "$bin/postgres" --single -D "$data.new" postgres <<<'create database iota'; } \
      >"$log" 2>&1 || ! mv "$data.new" "$data"; then
      loud 'postgres: the cluster could not be made'
      show_logs postgres.init.log
      return 1
    fi
  fi
  if [[ $("$bin/postgres" --version) != *" $(as_server cat "$data/PG_VERSION")"[.a-z]* ]]; then
    loud "postgres: the cluster in $data was made by version $(as_server cat "$data/PG_VERSION")," \
      "but $bin holds $("$bin/postgres" --version). scripts/services down --purge deletes it."
    return 1
  fi
}

# postgres_launch PORT
postgres_launch() {
  local data
  data=$(postgres_data)
  # No process of this cluster runs (we looked), so a pid file in it is stale; the number in it may
  # be another process's by now.
  as_server rm -f "$data/postmaster.pid" || return 1
  launch "$services/postgres.log" "${as_user[@]}" "$(postgres_bin)/postgres" -D "$data" \
    -c listen_addresses=127.0.0.1 -c "port=$1" -c unix_socket_directories= "${postgres_settings[@]}"
}
