# shellcheck shell=bash
# What makes the parts a system that can be tried out: the sample in a database of its own, the topics of its requests.
# Sourced by scripts/services.
# shellcheck disable=SC2154  # root: set by scripts/services

# Not the database of the tests: they have schemas of their own in it, and expect nothing else.
sample_database=sample
sample_topics=(anxinyun_data savoir_data)

# sample_url PORT [USER]
sample_url() { printf 'postgres://%s@127.0.0.1:%s/%s' "${2:-data_patch}" "$1" "$sample_database"; }

# ours PART: whether this checkout runs it, and may put something into it.
ours() { [[ $(state "$1" mode) == private || $(state "$1" mode) == docker ]]; }

# sample_load PORT: the sample's tables, unless they are there.
sample_load() {
  local log=$services/sample.log psql=(psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1)
  local url
  url=$(sample_url "$1")
  if ! command -v psql >/dev/null; then
    loud "sample: psql is missing, which loads it. Install it (Debian: apt-get install postgresql-client)."
    return 1
  fi
  "${psql[@]}" -c 'SELECT FROM raw_data LIMIT 1' "$url" >/dev/null 2>&1 && return 0
  say 'sample: loading it into PostgreSQL (once)'
  # The database may be there without the tables, after a load that was cut off: the SQL is one transaction.
  "${psql[@]}" -c "CREATE DATABASE $sample_database" "$(postgres_url "$1")" >"$log" 2>&1 || true
  if ! "${psql[@]}" --file="$root/deploy/postgres/10-iota-sample.sql" "$url" >>"$log" 2>&1; then
    loud 'sample: it could not be loaded'
    show_logs sample.log
    return 1
  fi
}

# sample_index POSTGRES_PORT OPENSEARCH_PORT: the rows of the sample's raw_data as documents of the index raw_data, unless
# they are there.
sample_index() {
  local url log=$services/sample-index.log psql=(psql --no-psqlrc --quiet --no-align --tuples-only --set=ON_ERROR_STOP=1)
  local index=http://127.0.0.1:$2/raw_data json='content-type: application/json' rows
  url=$(sample_url "$1")
  if ! command -v curl >/dev/null; then
    loud "sample: curl is missing, which loads it into OpenSearch. Install it (Debian: apt-get install curl)."
    return 1
  fi
  rows=$("${psql[@]}" -c 'SELECT count(*) FROM raw_data' "$url") || return 1
  # After a load that was cut off some may be missing.
  [[ $(curl -sS "$index/_count" 2>/dev/null) != *"\"count\":$rows,"* ]] || return 0
  say 'sample: loading it into OpenSearch (once)'
  if ! {
    curl -sS -X DELETE "$index" && echo &&
      curl -sS --fail-with-body -X PUT -H "$json" "$index" -d '{"settings": {"number_of_replicas": 0}, "mappings":
        {"properties": {"deviceId": {"type": "keyword"}, "triggerTime": {"type": "date"}}}}' && echo &&
      "${psql[@]}" -c "SELECT json_build_object('index', json_build_object('_id', id::text)) || E'\\n' || doc FROM raw_data ORDER BY id" \
        "$url" | curl -sS --fail-with-body -H "$json" --data-binary @- "$index/_bulk?refresh=true&filter_path=errors"
  } >"$log" 2>&1 || ! tail -n 1 "$log" | grep -q '"errors":false'; then
    loud 'sample: it could not be loaded into OpenSearch'
    head -c 2000 "$log" >&2
    return 1
  fi
}

# int BYTES NUMBER: a big-endian integer as printf escapes.
int() {
  local hex
  printf -v hex '%0*x' "$(($1 * 2))" "$2"
  sed 's/../\\x&/g' <<<"$hex"
}

# sample_topic PORT NAME: makes a topic of three partitions, unless it is there: a CreateTopics request of version 2, since
# Kafka's own program for it is not among the jars, and would start a Java machine.
sample_topic() {
  local name=$2 size=${#2} answer request code
  request=$(int 4 $((35 + size)))$(int 2 19)$(int 2 2)$(int 4 7)'\xff\xff'$(int 4 1)$(int 2 "$size")$name
  request+=$(int 4 3)$(int 2 1)$(int 4 0)$(int 4 0)$(int 4 30000)$(int 1 0)
  answer=$(ask "$1" "$request" $((20 + size)))
  code=${answer:$(((18 + size) * 2)):4}
  # 36: it exists.
  [[ $code == 0000 || $code == 0024 ]] && return 0
  loud "kafka: the topic $name could not be made (Kafka's error code: ${code:-no answer})"
  return 1
}

# sample_up: fills what this checkout runs, and prints how to serve from it.
sample_up() {
  local postgres kafka topic places=PostgreSQL
  ours postgres && ours kafka || return 0
  postgres=$(state postgres port)
  kafka=$(state kafka port)
  sample_load "$postgres" || return 1
  for topic in "${sample_topics[@]}"; do sample_topic "$kafka" "$topic" || return 1; done
  if ours opensearch && [[ -n $(opensearch_pid) ]]; then
    sample_index "$postgres" "$(state opensearch port)" || return 1
    places="PostgreSQL, and in OpenSearch as $(state opensearch url)/raw_data"
  fi
  cat <<TEXT

The sample of two things and eighteen devices is in $places.
The topics ${sample_topics[*]} are made. To serve from it:

  DATA_PATCH_TOKEN=123456 DATA_PATCH_KAFKA_BROKERS=$(kafka_url "$kafka") \\
  DATA_PATCH_IOTA_URL=$(sample_url "$postgres" data_patch_reader) \\
  cargo run --locked --release -- serve

TEXT
}
