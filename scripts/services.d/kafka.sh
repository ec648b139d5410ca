# shellcheck shell=bash
# A private Kafka broker (KRaft, one node) out of the jars that scripts/kafka/pom.xml names.
# Sourced by scripts/services.
# shellcheck disable=SC2154  # root, scripts, services: set by scripts/services

kafka_default_port() { printf 29092; }
kafka_url() { printf '127.0.0.1:%s' "$1"; }
kafka_data() { printf '%s/kafka/data' "$services"; }
kafka_mark() { printf meta.properties; }
kafka_stop_signal() { printf TERM; }
kafka_pid() { find_process java "$services/kafka/server.properties"; }
kafka_purge() { rm -rf "$services/kafka" "$services"/kafka.*log "$services/kafka.out"; }

# kafka_answers PORT: asks for the cluster's metadata (version 1, no topics, so that none is made). Only
# a real broker that has joined its cluster answers with our number (7) and at least one broker.
kafka_answers() {
  local answer
  answer=$(ask "$1" '\0\0\0\016\0\003\0\001\0\0\0\007\xff\xff\0\0\0\0' 12)
  [[ ${#answer} == 24 && ${answer:8:8} == 00000007 && ${answer:16:8} != 00000000 ]]
}

# kafka_jars: where the jars of the present pom.xml belong: in the user's cache, shared by all checkouts.
kafka_jars() {
  local cache=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
  printf '%s/kafka-jars-%s' "${cache:+$cache/data-patch}" \
    "$(sha256sum <"$scripts/kafka/pom.xml" | cut -c1-16)" | sed "s#^/kafka-jars#$services&#"
}

kafka_version() {
  local jar
  jar=$(echo "$services"/kafka/jars/kafka_2.13-*.jar)
  jar=${jar##*-}
  printf 'Kafka %s' "${jar%.jar}"
}

kafka_fetch() {
  local jars=$1 fresh log=$services/kafka.maven.log
  if ! command -v mvn >/dev/null; then
    loud "kafka: Maven is missing, which fetches Kafka's jars." \
      "Install it (Debian: apt-get install maven), or set DATA_PATCH_TEST_KAFKA."
    return 1
  fi
  say "kafka: fetching the jars (once)"
  mkdir -p "${jars%/*}" && fresh=$(mktemp -d "$jars.XXXXXX") || return 1
  if ! mvn -q -B -f "$scripts/kafka/pom.xml" "$maven_copy" -DincludeScope=runtime \
    "-DoutputDirectory=$fresh" </dev/null >"$log" 2>&1; then
    rm -rf "$fresh"
    loud "kafka: Maven could not fetch the jars"
    show_logs kafka.maven.log
    return 1
  fi
  # Moved as a whole, so that the folder is complete if it exists (-T: never into one that
  # another checkout has put there meanwhile).
  chmod 755 "$fresh"
  mv -T "$fresh" "$jars" 2>/dev/null || rm -rf "$fresh"
  [[ -d $jars ]]
}

# kafka_settings PORT CONTROLLER_PORT LISTEN_ADDRESS: server.properties, but for the data's place.
kafka_settings() {
  cat <<TEXT
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$2
listeners=PLAINTEXT://$3:$1,CONTROLLER://127.0.0.1:$2
advertised.listeners=PLAINTEXT://127.0.0.1:$1
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
# On purpose: the tests prove that the service creates no topic by accident, and where the broker
# refuses to create one they would prove nothing.
auto.create.topics.enable=true
num.partitions=1
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# After a kill the broker may only come back when its old session is over (9000 and 2000 by default).
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# Readings keep their own, often old, timestamps: by the default they would expire during a test.
log.retention.ms=-1
TEXT
}

kafka_log_config() {
  cat <<TEXT
status = warn
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = $services/kafka.log
appender.file.filePattern = $services/kafka.%i.log
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = [%d] %p %m (%c)%n
appender.file.policy.type = SizeBasedTriggeringPolicy
appender.file.policy.size = 20MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 2
# (hundreds of lines of settings at every start)
logger.settings.name = org.apache.kafka.common.config.AbstractConfig
logger.settings.level = warn
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
TEXT
}

# kafka_java ARGUMENT...: sets java_command.
kafka_java() {
  java_command=(java "-Dlog4j2.configurationFile=$services/kafka/log4j2.properties"
    -Djava.awt.headless=true -cp "$services/kafka/jars/*" "$@")
}

# kafka_prepare PORT: Java, the jars, the configuration and a formatted data directory.
kafka_prepare() {
  local dir=$services/kafka jars version id log=$services/kafka.format.log
  version=$(java -version 2>&1 | sed -nE 's/.*version "([0-9]+).*/\1/p' || true)
  if ((${version:-0} < 17)); then
    loud "kafka: Java 17 or newer is needed, found: ${version:-none}." \
      "Install it (Debian: apt-get install openjdk-17-jre-headless), or set DATA_PATCH_TEST_KAFKA."
    return 1
  fi
  mkdir -p "$dir" || return 1
  jars=$(kafka_jars)
  [[ -d $jars ]] || kafka_fetch "$jars" || return 1
  ln -sfn "$jars" "$dir/jars"
  kafka_log_config >"$dir/log4j2.properties"
  {
    kafka_settings "$1" "$(next_free "$(($1 + 1))")" 127.0.0.1
    printf 'log.dirs=%s\n' "$(kafka_data)"
  } >"$dir/server.properties"

  [[ ! -e $dir/data/meta.properties ]] || return 0
  # Kafka's ids are 16 bytes in base64's variant for URLs, with no - in front.
  id=$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=')
  kafka_java -Xmx256m kafka.tools.StorageTool format -t "${id/#-/A}" -c "$dir/server.properties"
  rm -rf "$dir/data"
  if ! "${java_command[@]}" </dev/null >"$log" 2>&1; then
    rm -rf "$dir/data"
    loud 'kafka: the data directory could not be formatted'
    show_logs kafka.format.log
    return 1
  fi
}

# kafka_launch PORT: the property is for process_port, the broker reads server.properties.
kafka_launch() {
  : >"$services/kafka.out"
  kafka_java -Xms256m -Xmx768m -XX:+ExitOnOutOfMemoryError "-Ddata-patch.port=$1" \
    kafka.Kafka "$services/kafka/server.properties"
  launch "$services/kafka.out" "${java_command[@]}"
}
