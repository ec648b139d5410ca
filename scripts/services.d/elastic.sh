# shellcheck shell=bash
# Elasticsearch and OpenSearch: the jars that scripts/elastic/pom.xml names, and a small main that starts one server.
# Sourced by scripts/services and scripts/elastic/node.
# shellcheck disable=SC2154  # scripts, services: set by the caller

# What the names of the two parts stand for, which CI runs; the others are started by `up --elastic all`.
elastic_parts=(opensearch elasticsearch)
elastic_others=(elasticsearch-5.6 elasticsearch-7.17 elasticsearch-8.19 opensearch-1.3 opensearch-3.9)

# elastic_version PART
elastic_version() {
  case $1 in
    opensearch) printf opensearch-2.19 ;;
    elasticsearch) printf elasticsearch-6.8 ;;
    *) printf '%s' "$1" ;;
  esac
}

# elastic_part VERSION: the other way round.
elastic_part() {
  case $1 in
    opensearch-2.19) printf opensearch ;;
    elasticsearch-6.8) printf elasticsearch ;;
    *) printf '%s' "$1" ;;
  esac
}

# elastic_known VERSION: whether pom.xml has it.
elastic_known() { grep -qF "<id>$1</id>" "$scripts/elastic/pom.xml"; }

### Java

# java_level JAVA: 17 for Java 17; read from a file where there is one, since a start of Java takes longer.
java_level() {
  local version home
  home=$(readlink -f -- "$1") && home=${home%/bin/*}
  version=$(sed -nE 's/^JAVA_VERSION="([0-9]+).*/\1/p' "$home/release" 2>/dev/null || true)
  [[ -n $version ]] || version=$("$1" -version 2>&1 | sed -nE 's/.*(version "|javac )([0-9]+).*/\2/p' || true)
  printf '%s' "${version:-0}"
}

# find_java PROGRAM LEVEL: the first java or javac of at least that level, the default one first; or nothing.
find_java() {
  local candidate
  for candidate in "$(command -v "$1" || true)" "${JAVA_HOME:-/nowhere}/bin/$1" /usr/lib/jvm/*/bin/"$1"; do
    [[ -x $candidate ]] && (("$(java_level "$candidate")" >= $2)) || continue
    printf '%s' "$candidate"
    return 0
  done
}

# elastic_level VERSION: the Java that it needs. (5 to 7 would run on older ones; the tests need 17 anyway.)
elastic_level() { if [[ $1 == opensearch-3.* ]]; then printf 21; else printf 17; fi; }

# need_java VERSION PROGRAM: sets $java_found, and installs what is missing where that is possible.
need_java() {
  local version=$1 program=$2 level package log=$services/elastic/java-install.log
  level=$(elastic_level "$version")
  java_found=$(find_java "$program" "$level")
  [[ -z $java_found ]] || return 0
  package=openjdk-$level-jdk-headless
  ((level > 17)) || package=default-jdk-headless
  if ((EUID == 0)) && command -v apt-get >/dev/null; then
    say "$version: no $program of Java $level or newer found: installing the package $package" >&2
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$package"; } \
      </dev/null >"$log" 2>&1 || true
    java_found=$(find_java "$program" "$level")
    [[ -z $java_found ]] || return 0
  fi
  loud "$version: a JDK of Java $level or newer is needed ($program), and neither PATH, JAVA_HOME nor /usr/lib/jvm has one." \
    "Install one (Debian: apt-get install $package, if this release of Debian has it)."
  return 1
}

### Jars

# elastic_jars VERSION: the folder of jars of the present pom.xml and main, in the user's cache, shared by all checkouts.
elastic_jars() {
  local cache=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}} hash
  hash=$(cd "$scripts/elastic" && find pom.xml java -type f | sort | xargs cat | sha256sum | cut -c1-16)
  if [[ -n $cache ]]; then cache=$cache/data-patch; else cache=$services/elastic; fi
  printf '%s/%s-jars-%s' "$cache" "$1" "$hash"
}

# elastic_sources VERSION: the folder with its TestNode.
elastic_sources() {
  local folder=$scripts/elastic/java/$1
  [[ -d $folder ]] || folder=$scripts/elastic/java/${1%-*}
  printf '%s' "$folder"
}

# elastic_fetch VERSION JARS: JARS/lib, JARS/main.jar and what else the version needs.
elastic_fetch() {
  local version=$1 jars=$2 fresh javac java_found log=$services/elastic/$1.fetch.log
  if ! command -v mvn >/dev/null; then
    loud "$version: Maven is missing, which fetches its jars. Install it (Debian: apt-get install maven)."
    return 1
  fi
  need_java "$version" javac || return 1
  javac=$java_found
  say "$version: fetching the jars (once)" >&2
  mkdir -p "${jars%/*}" && fresh=$(mktemp -d "$jars.XXXXXX") || return 1
  if ! mvn -q -B -f "$scripts/elastic/pom.xml" -P "$version" "$maven_copy" -DincludeScope=runtime \
    "-DoutputDirectory=$fresh/lib" </dev/null >"$log" 2>&1; then
    rm -rf "$fresh"
    loud "$version: Maven could not fetch the jars"
    show_logs "elastic/$version.fetch.log"
    return 1
  fi
  if ! elastic_compile "$version" "$javac" "$fresh" >>"$log" 2>&1; then
    rm -rf "$fresh"
    loud "$version: its main could not be compiled"
    show_logs "elastic/$version.fetch.log"
    return 1
  fi
  # Moved as a whole, so that the folder is complete if it exists.
  chmod 755 "$fresh"
  mv -T "$fresh" "$jars" 2>/dev/null || rm -rf "$fresh"
  [[ -d $jars ]]
}

# elastic_compile VERSION JAVAC FOLDER
elastic_compile() {
  local version=$1 javac=$2 folder=$3 sources options
  sources=$(elastic_sources "$version")
  options=(-nowarn -proc:none --release "$(elastic_level "$version")")
  if [[ -d $sources/module ]]; then
    mkdir -p "$folder/netty" && mv "$folder"/lib/*netty* "$folder/netty/" &&
      "$javac" "${options[@]}" -d "$folder/module-classes" -cp "$folder/lib/*:$folder/netty/*" "$sources"/module/*.java &&
      "${javac%javac}jar" cf "$folder/netty/test-plugin.jar" -C "$folder/module-classes" . || return 1
  fi
  "$javac" "${options[@]}" -d "$folder/classes" -cp "$folder/lib/*" "$scripts"/elastic/java/*.java "$sources"/*.java &&
    "${javac%javac}jar" cf "$folder/main.jar" -C "$folder/classes" . &&
    rm -rf "$folder/classes" "$folder/module-classes"
}

# elastic_java JARS HOME ARGUMENT...: sets java_command.
elastic_java() {
  local jars=$1 home=$2
  shift 2
  # One processor's worth of threads, a small heap: other tests run beside it. Java's own messages go to stderr, since
  # stdout is read by tests.
  java_command=("$java_found" -Xms128m -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:ActiveProcessorCount=1
    -XX:+ExitOnOutOfMemoryError -Xlog:disable -Xlog:all=warning:stderr -Djava.awt.headless=true
    "-Dlog4j2.configurationFile=$scripts/elastic/log4j2.properties" -Dlog4j2.disable.jmx=true
    "-Ddata-patch.netty=$jars/netty" "-Ddata-patch.log=$home/node.log" "$@")
}

# elastic_archive JARS: the file of loaded classes (AppCDS) for this very Java; it halves the time to start.
elastic_archive() {
  local java home
  java=$(readlink -f -- "$java_found")
  home=${java%/bin/*}
  printf '%s/%s.jsa' "$1" "$({ printf '%s' "$java" && cat "$home/release" 2>/dev/null; } | sha256sum | cut -c1-16)"
}

# elastic_archive_make VERSION JARS: by one start and end of the server; an empty file says that it does not work here.
elastic_archive_make() {
  local archive home
  archive=$(elastic_archive "$2")
  [[ ! -e $archive ]] || return 0
  home=$(mktemp -d "$services/elastic/archive.XXXXXX") || return 1
  elastic_java "$2" "$home" "-XX:ArchiveClassesAtExit=$archive.$$" -Ddata-patch.exit-when-ready=true \
    -cp "$2/main.jar:$2/lib/*" Main "$home" 0
  timeout 120 "${java_command[@]}" </dev/null >"$services/elastic/$1.archive.log" 2>&1 && [[ -s $archive.$$ ]] || : >"$archive.$$"
  mv -f "$archive.$$" "$archive"
  rm -rf "$home"
}

# elastic_ready VERSION: Java, jars and archive; sets $java_found and $elastic_folder. One process at a time fetches.
elastic_ready() {
  local version=$1 lock result=0
  mkdir -p "$services/elastic" || return 1
  elastic_folder=$(elastic_jars "$version")
  need_java "$version" java || return 1
  [[ ! -d $elastic_folder || ! -e $(elastic_archive "$elastic_folder") ]] || return 0
  mkdir -p "${elastic_folder%/*}" || return 1
  exec {lock}>"$elastic_folder.lock"
  flock -w 600 "$lock" || return 1
  { [[ -d $elastic_folder ]] || elastic_fetch "$version" "$elastic_folder"; } &&
    elastic_archive_make "$version" "$elastic_folder" || result=1
  exec {lock}>&-
  return "$result"
}

# elastic_command HOME JAVA_OPTION... -- PORT [key=value...]: sets java_command, after elastic_ready.
elastic_command() {
  local home=$1 options=() archive
  shift
  while [[ $1 != -- ]]; do options+=("$1") && shift; done
  shift
  archive=$(elastic_archive "$elastic_folder")
  [[ ! -s $archive ]] || options+=("-XX:SharedArchiveFile=$archive")
  elastic_java "$elastic_folder" "$home" "${options[@]}" -cp "$elastic_folder/main.jar:$elastic_folder/lib/*" \
    Main "$home" "$@"
}

### The parts of scripts/services. Each function gets the part first: see the end of this file.

elastic_default_port() {
  local number=0 part first=${DATA_PATCH_TEST_ELASTICSEARCH_PORT:-29201}
  case $1 in
    opensearch) printf 29200 ;;
    elasticsearch) printf 29201 ;;
    *)
      # In a row after Elasticsearch's, so that who moves that moves all.
      for part in "${elastic_others[@]}"; do
        number=$((number + 1))
        [[ $part != "$1" ]] || printf '%s' $((first + number))
      done
      ;;
  esac
}

elastic_url() { printf 'http://127.0.0.1:%s' "$2"; }
elastic_data() { printf '%s/elastic/%s' "$services" "$(elastic_version "$1")"; }
elastic_mark() { printf config; }
elastic_stop_signal() { printf TERM; }
elastic_pid() { find_process java "$(elastic_data "$1")"; }
elastic_purge() { rm -rf "$(elastic_data "$1")" "$services/$1.out" "$services/$1".log*; }

# elastic_get PORT PATH: the answer to a GET, headers too.
elastic_get() {
  # shellcheck disable=SC2016
  timeout 5 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$1" && printf "GET %s HTTP/1.0\r\n\r\n" "$2" >&3 && cat <&3' _ "$@" \
    2>/dev/null || true
}

# elastic_answers PART PORT: whether that product in that version answers there. One that this checkout has started says
# itself when its shards are there.
elastic_answers() {
  local part=$1 port=$2 version answer product=elasticsearch
  version=$(elastic_version "$part")
  if [[ $(state "$part" mode) == private && $(state "$part" port) == "$port" ]]; then
    grep -q '^READY ' "$services/$part.out" 2>/dev/null || return 1
  fi
  answer=$(elastic_get "$port" /)
  [[ $answer =~ \"distribution\"\ *:\ *\"opensearch\" ]] && product=opensearch
  [[ $answer =~ \"number\"\ *:\ *\"([0-9]+\.[0-9]+)\. && $version == "$product-${BASH_REMATCH[1]}" ]]
}

elastic_prepare() {
  elastic_ready "$(elastic_version "$1")" && mkdir -p "$(elastic_data "$1")/config"
}

elastic_launch() {
  local home
  home=$(elastic_data "$1")
  : >"$services/$1.out"
  elastic_command "$home" "-Ddata-patch.port=$2" \
    "-Ddata-patch.log=$services/$1.log" -- "$2"
  launch "$services/$1.out" "${java_command[@]}"
}

for elastic_one in "${elastic_parts[@]}" "${elastic_others[@]}"; do
  for elastic_function in default_port url data mark stop_signal pid purge answers prepare launch; do
    eval "${elastic_one}_$elastic_function() { elastic_$elastic_function '$elastic_one' \"\$@\"; }"
  done
  eval "${elastic_one}_version() { elastic_version '$elastic_one'; }"
done
unset elastic_one elastic_function
