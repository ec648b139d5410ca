//! Checks the local stack against the project, as far as possible without Docker.

use std::collections::BTreeMap;

use data_patch::{
    config::{self, Config, Overrides},
    source::sample,
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use uuid::Uuid;
use yaml_rust2::{Yaml, YamlLoader};

use crate::support::{TIMEOUT, program, real, tree::root};

fn compose() -> Yaml {
    let text = std::fs::read_to_string(root().join("docker-compose.yml")).unwrap();
    merged(&YamlLoader::load_from_str(&text).unwrap()[0])
}

/// With the mappings that `<<` names merged into those that it stands in.
fn merged(yaml: &Yaml) -> Yaml {
    let Yaml::Hash(hash) = yaml else { return yaml.clone() };
    let mut all = yaml["<<"].as_hash().map(|_| merged(&yaml["<<"])).and_then(Yaml::into_hash).unwrap_or_default();
    for (key, value) in hash.iter().filter(|(key, _)| key.as_str() != Some("<<")) {
        all.insert(key.clone(), merged(value));
    }
    Yaml::Hash(all)
}

fn texts(list: &Yaml) -> Vec<&str> {
    list.as_vec().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

/// `${NAME:-default}` as its default.
fn expand(text: &str) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (variable, after) = after.split_once('}').unwrap();
        expanded.push_str(before);
        expanded.push_str(variable.split_once(":-").expect("a variable without a default").1);
        rest = after;
    }
    expanded + rest
}

fn environment(service: &str) -> BTreeMap<String, String> {
    let compose = compose();
    let variables = compose["services"][service]["environment"].as_hash().unwrap();
    let text = |yaml: &Yaml| match yaml {
        Yaml::Integer(number) => number.to_string(),
        other => expand(other.as_str().unwrap()),
    };
    variables.iter().map(|(name, value)| (text(name), text(value))).collect()
}

fn service_config(tweak: impl FnOnce(&mut BTreeMap<String, String>)) -> Config {
    config_of("data-patch", tweak)
}

fn config_of(service: &str, tweak: impl FnOnce(&mut BTreeMap<String, String>)) -> Config {
    let mut variables = environment(service);
    tweak(&mut variables);
    config::load(None, variables.into_iter(), Overrides::default()).unwrap()
}

#[test]
fn the_services_variables_are_options_and_its_port_is_published() {
    let config = service_config(|_| {});
    assert_eq!(config.server.listen.port(), 18010);
    assert!(!config.kafka.is_embedded());
    let compose = compose();
    assert_eq!(texts(&compose["services"]["data-patch"]["ports"]), ["18010:18010"]);
    assert!(environment("data-patch")["DATA_PATCH_TOKEN"].len() >= 6);
    let grace =
        compose["services"]["data-patch"]["stop_grace_period"].as_str().unwrap().trim_end_matches('s').parse::<u64>().unwrap();
    assert!(grace > config.server.shutdown_seconds, "Docker must not kill it while it stops");
}

#[test]
fn each_service_has_a_health_check_or_ends_and_they_start_in_order() {
    let compose = compose();
    for (name, service) in compose["services"].as_hash().unwrap() {
        let name = name.as_str().unwrap();
        let ends = ["topics", "cluster-topics", "opensearch-sample"].contains(&name);
        assert_eq!(service["healthcheck"]["test"].is_badvalue(), ends, "{name}");
        assert_eq!(service["restart"].as_str(), Some(if ends { "no" } else { "unless-stopped" }), "{name}");
        for (before, condition) in service["depends_on"].as_hash().into_iter().flatten() {
            let other = &compose["services"][before.as_str().unwrap()];
            assert!(!other.is_badvalue(), "{name} waits for {before:?}");
            // One of another profile may not be there.
            let is_there = other["profiles"].is_badvalue() || other["profiles"] == service["profiles"];
            assert_eq!(condition["required"].as_bool(), (!is_there).then_some(false), "{name} waits for {before:?}");
        }
    }
    let after = &compose["services"]["data-patch"]["depends_on"];
    for (service, condition) in [
        ("postgres", "service_healthy"),
        ("kafka", "service_healthy"),
        ("topics", "service_completed_successfully"),
        ("opensearch-sample", "service_completed_successfully"),
    ] {
        assert_eq!(after[service]["condition"].as_str(), Some(condition));
    }
}

#[test]
fn postgres_is_healthy_only_with_the_sample_and_kafkas_check_starts_no_java() {
    let compose = compose();
    let check = |service: &str| texts(&compose["services"][service]["healthcheck"]["test"]).join(" ");
    let postgres = check("postgres");
    assert!(postgres.contains("psql") && postgres.contains("FROM raw_data") && postgres.contains("127.0.0.1"), "{postgres}");
    for broker in ["kafka", "kafka-1", "kafka-2", "kafka-3"] {
        let kafka = check(broker);
        assert!(kafka.contains(&format!("</dev/tcp/{broker}/9092")) && !kafka.contains(".sh"), "{kafka}");
    }
}

/// The directories that an image declares as volumes get an anonymous one each, unless something is
/// mounted there.
#[test]
fn no_volume_is_anonymous() {
    let compose = compose();
    let declared = [
        ("postgres", vec!["/var/lib/postgresql/data"]),
        ("kafka", vec!["/var/lib/kafka/data", "/etc/kafka/secrets", "/mnt/shared/config"]),
        ("topics", vec!["/var/lib/kafka/data", "/etc/kafka/secrets", "/mnt/shared/config"]),
        ("data-patch", vec!["/var/lib/data-patch"]),
        ("opensearch-sample", vec!["/var/lib/postgresql/data"]),
        ("prometheus", vec!["/prometheus"]),
        ("grafana", vec!["/var/lib/grafana"]),
        ("kafka-1", vec!["/var/lib/kafka/data", "/etc/kafka/secrets", "/mnt/shared/config"]),
        ("cluster-topics", vec!["/var/lib/kafka/data", "/etc/kafka/secrets", "/mnt/shared/config"]),
        ("queue", vec!["/var/lib/postgresql/data"]),
        ("data-patch-1", vec!["/var/lib/data-patch"]),
    ];
    for (service, paths) in declared {
        let service = &compose["services"][service];
        let of = |key: &str| service[key].as_vec().map(|_| texts(&service[key])).unwrap_or_default();
        let mounted: Vec<_> =
            of("volumes").into_iter().map(|mount| mount.split(':').nth(1).unwrap()).chain(of("tmpfs")).collect();
        for path in paths {
            assert!(mounted.contains(&path), "{path}: {mounted:?}");
        }
    }
}

/// `docker compose up` alone starts neither Prometheus and Grafana nor `OpenSearch` nor the cluster, and what they need is theirs
/// alone.
#[test]
fn observability_opensearch_and_the_cluster_are_profiles_of_their_own_with_pinned_images() {
    let compose = compose();
    for (name, service) in compose["services"].as_hash().unwrap() {
        let name = name.as_str().unwrap();
        let expected = match name {
            "prometheus" | "grafana" => vec!["observability"],
            "opensearch" | "opensearch-sample" => vec!["opensearch"],
            "queue" | "proxy" => vec!["cluster"],
            name if name.starts_with("cluster-") || name.starts_with("kafka-") || name.starts_with("data-patch-") => {
                vec!["cluster"]
            }
            _ => vec![],
        };
        let profiles = service["profiles"].as_vec().map(|_| texts(&service["profiles"])).unwrap_or_default();
        assert_eq!(profiles, expected, "{name}");
        if let Some(image) = service["image"].as_str() {
            assert!(
                image.rsplit_once(':').is_some_and(|(_, tag)| tag.starts_with(|c: char| c.is_ascii_digit() || c == 'v')),
                "{image}"
            );
        }
    }
    let scraped = std::fs::read_to_string(root().join("deploy/prometheus/prometheus.yml")).unwrap();
    let scraped = &YamlLoader::load_from_str(&scraped).unwrap()[0]["scrape_configs"][0]["static_configs"][0]["targets"];
    assert_eq!(texts(scraped), [format!("data-patch:{}", service_config(|_| {}).server.listen.port())]);
}

/// The readings are in PostgreSQL unless the variable that the file and the documents name is given.
#[test]
fn the_readings_are_in_opensearch_with_the_variable_that_is_documented() {
    assert!(!service_config(|_| {}).iota.readings.is_configured());
    let variable = "DATA_PATCH_IOTA_READINGS_URL";
    for file in ["docker-compose.yml", "docs/deployment.md", "docs/deployment.zh-CN.md"] {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let (_, command) = text.split_once(&format!("{variable}=")).unwrap_or_else(|| panic!("{file} has no {variable}"));
        let url = command.split_whitespace().next().unwrap().to_owned();
        let config = service_config(|variables| drop(variables.insert(variable.to_owned(), url)));
        let url = config::ReadingsUrl::parse(&config.iota.readings.url).unwrap();
        assert_eq!((url.nodes, url.index.as_str()), (vec!["http://opensearch:9200".to_owned()], "raw_data"), "{file}");
    }
    let loaded = texts(&compose()["services"]["opensearch-sample"]["command"]).concat();
    assert!(loaded.contains("/raw_data/_bulk?"), "{loaded}");
}

#[test]
fn the_rust_versions_agree() {
    let read = |file: &str| std::fs::read_to_string(root().join(file)).unwrap();
    let after = |text: &str, before: &str| {
        let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before}"));
        rest.trim_start_matches([' ', '"']).chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect::<String>()
    };
    let least = after(&read("Cargo.toml"), "\nrust-version =");
    assert_eq!(after(&read("Dockerfile"), "RUST_VERSION="), least);
    assert_eq!(after(&read("rust-toolchain.toml"), "\nchannel ="), format!("{least}.0"));
    for readme in ["README.md", "README.zh-CN.md"] {
        assert_eq!(after(&read(readme), "Rust "), least, "{readme}");
    }
}

#[test]
fn mounted_files_and_volumes_are_there_and_data_is_in_volumes() {
    let compose = compose();
    let volumes = compose["volumes"].as_hash().unwrap();
    for (name, service) in compose["services"].as_hash().unwrap() {
        let Some(mounts) = service["volumes"].as_vec() else { continue };
        let (mut files, mut named) = (0, 0);
        for mount in mounts {
            let (source, _) = mount.as_str().unwrap().split_once(':').unwrap();
            if let Some(path) = source.strip_prefix("./") {
                assert!(root().join(path).is_file(), "{source}");
                files += 1;
            } else {
                assert!(volumes.contains_key(&Yaml::String(source.to_owned())), "{source}");
                named += 1;
            }
        }
        assert_eq!(named, usize::from(name.as_str() != Some("proxy")), "{name:?}");
        let expected = match name.as_str() {
            Some("postgres" | "proxy") => 1,
            Some("prometheus") => 2,
            Some("grafana") => 3,
            _ => 0,
        };
        assert_eq!(files, expected, "{name:?}");
    }
    let config = service_config(|_| {});
    let data = texts(&compose["services"]["data-patch"]["volumes"])[0].split_once(':').unwrap().1.to_owned();
    assert!(config.queue.url.reveal().starts_with(&format!("sqlite://{data}/")), "the queue is in the volume");
}

/// The instances of the cluster are alike, and the proxy, the brokers and the queue are where they and their clients look.
#[test]
fn the_clusters_instances_share_a_queue_and_are_behind_the_proxy() {
    let compose = compose();
    let config = config_of("data-patch-1", |_| {});
    let proxy = std::fs::read_to_string(root().join("deploy/haproxy/haproxy.cfg")).unwrap();
    for instance in ["data-patch-1", "data-patch-2", "data-patch-3"] {
        assert_eq!(environment(instance), environment("data-patch-1"));
        assert!(proxy.contains(&format!("{instance}:{}\n", config.server.listen.port())), "{instance}");
        assert_eq!(compose["services"]["proxy"]["depends_on"][instance]["condition"].as_str(), Some("service_healthy"));
    }
    assert_eq!(texts(&compose["services"]["proxy"]["ports"]), ["18011:18010"]);
    assert!(proxy.contains("bind :18010\n") && !config.server.trusted_proxies.is_empty());
    let user = &environment("queue")["POSTGRES_USER"];
    assert_eq!(
        config.queue.url.reveal(),
        format!("postgres://{user}:{}@queue:5432/{user}", environment("queue")["POSTGRES_PASSWORD"])
    );
    for broker in 1..=3 {
        let environment = environment(&format!("kafka-{broker}"));
        assert!(config.kafka.brokers.contains(&format!("kafka-{broker}:9092")));
        assert_eq!(environment["KAFKA_NODE_ID"], broker.to_string());
        assert!(environment["KAFKA_ADVERTISED_LISTENERS"].contains(&format!("INTERNAL://kafka-{broker}:9092")));
        assert!(environment["KAFKA_CONTROLLER_QUORUM_VOTERS"].contains(&format!("{broker}@kafka-{broker}:9093")));
    }
    for topics in ["topics", "cluster-topics"] {
        let command = texts(&compose["services"][topics]["command"]).concat();
        assert!(command.contains("anxinyun_data savoir_data"), "{command}");
    }
}

#[test]
fn topics_are_created_that_requests_use_by_default_and_in_the_sample() {
    let compose = compose();
    let command = texts(&compose["services"]["topics"]["command"]).concat();
    let config = service_config(|_| {});
    for topic in [config.kafka.default_topic.as_str(), sample::BRIDGE.topic] {
        assert!(command.contains(topic), "{topic}");
    }
}

#[test]
fn the_image_has_what_is_compiled_in_and_is_not_root() {
    let dockerfile = std::fs::read_to_string(root().join("Dockerfile")).unwrap();
    let user = dockerfile.lines().rfind(|line| line.starts_with("USER ")).unwrap();
    assert!(!user.contains("root") && user != "USER 0", "{user}");
    assert!(dockerfile.matches("\nFROM ").count() >= 1 && dockerfile.contains("COPY --from="), "several stages");
    assert!(dockerfile.contains(r#"ENTRYPOINT ["data-patch"]"#) && dockerfile.contains("HEALTHCHECK"));
    let ignored = std::fs::read_to_string(root().join(".dockerignore")).unwrap();
    for needed in ["Cargo.toml", "Cargo.lock", "crates", "config.toml", "migrations", "src"] {
        assert!(
            ignored.lines().any(|line| line.trim_start_matches('!').trim_matches('/').starts_with(needed)),
            "{needed} is not in the build"
        );
    }
}

/// The stack's SQL on the real PostgreSQL, and the service with the stack's own variables: only
/// hosts and paths differ.
#[tokio::test]
async fn the_sample_of_the_stack_is_the_samples_twin_and_can_be_served() {
    let Some(server) = real("POSTGRES") else { return };
    let name = format!("stack_{}", Uuid::new_v4().simple());
    let mut admin = PgConnection::connect(&server).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await.unwrap();
    let mut url = tokio_tungstenite::tungstenite::http::Uri::try_from(server.as_str()).unwrap().into_parts();
    url.path_and_query = Some(format!("/{name}").parse().unwrap());
    let url = tokio_tungstenite::tungstenite::http::Uri::from_parts(url).unwrap().to_string();
    let load = tokio::process::Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file=deploy/postgres/10-iota-sample.sql", &url])
        .current_dir(root())
        .output();
    let output = tokio::time::timeout(TIMEOUT, load).await.unwrap().expect("psql is needed: Debian's postgresql-client");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let mut connection = PgConnection::connect(&url).await.unwrap();
    let rows = sqlx::query(
        r#"SELECT id, "deviceId"::text AS device, (extract(epoch FROM "triggerTime") * 1000)::bigint AS ms, doc::text AS doc FROM raw_data ORDER BY id"#,
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let expected: Vec<_> = sample::readings().collect();
    assert_eq!(rows.len(), expected.len());
    for (row, reading) in rows.iter().zip(&expected) {
        assert_eq!(row.get::<i64, _>("id"), reading.id);
        assert_eq!(row.get::<String, _>("device"), reading.device_id.to_string());
        assert_eq!(row.get::<i64, _>("ms"), reading.time.timestamp_millis());
        let docs = [row.get::<&str, _>("doc"), reading.doc.as_str()].map(|doc| serde_json::from_str::<Value>(doc).unwrap());
        assert_eq!(docs[0], docs[1]);
    }

    let host = url.split_once('@').map_or(url.as_str(), |(_, host)| host).to_owned();
    let config = service_config(|variables| {
        let stack = variables["DATA_PATCH_IOTA_URL"].clone();
        let (credentials, _) = stack.split_once('@').unwrap();
        variables.insert("DATA_PATCH_IOTA_URL".to_owned(), format!("{credentials}@{host}"));
    });
    let source = data_patch::source::Source::new(&config.iota).unwrap();
    let device = source.device(sample::BRIDGE.thing_id, sample::LEVEL_06).await.unwrap().unwrap();
    assert_eq!(device.name.as_deref(), Some("静力水准仪06"));
    assert!(source.mapping().await.unwrap().warnings.is_empty());
}

/// `scripts/services up` on the parts that this checkout runs: what it prints is enough to serve. It starts nothing.
#[tokio::test]
async fn what_the_services_script_prints_can_be_served() {
    let state = |part: &str| std::fs::read_to_string(root().join(format!("target/services/{part}.state"))).unwrap_or_default();
    let runs_here = |part: &str| {
        let address = real(&part.to_uppercase());
        address.is_some_and(|address| state(part).contains(&address) && !state(part).contains("mode=given"))
    };
    if !runs_here("postgres") || !runs_here("kafka") || [state("postgres"), state("kafka")].concat().contains("mode=reused") {
        return;
    }
    let up = tokio::process::Command::new(root().join("scripts/services")).args(["up", "--elastic", "none"]).output();
    let up = tokio::time::timeout(TIMEOUT, up).await.unwrap().unwrap();
    let output = String::from_utf8(up.stdout).unwrap();
    let (_, command) = output.split_once("To serve from it:").unwrap_or_else(|| panic!("no command: {output}"));
    let variables =
        command.split_whitespace().filter_map(|word| word.split_once('=').filter(|(name, _)| name.starts_with("DATA_PATCH_")));
    let folder = tempfile::tempdir().unwrap();
    let check = program().arg("check").envs(variables).current_dir(folder.path()).output();
    let check = tokio::time::timeout(TIMEOUT, check).await.unwrap().unwrap();
    let output = String::from_utf8(check.stdout).unwrap();
    assert!(check.status.success() && output.contains("all is well"), "{output}");
}
