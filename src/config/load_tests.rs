//! Which layers override which, and what the errors say.

use super::*;
use crate::config::option_names;

fn with(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    load(None, variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())), Overrides::default())
}

fn from_file(text: &str) -> Result<Config, ConfigError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    load(Some(file.path()), std::iter::empty(), Overrides::default())
}

#[test]
fn the_built_in_file_is_complete_and_valid() {
    assert_eq!(with(&[]).unwrap().server.listen.port(), 18010);
}

#[test]
fn variables_override_the_file_and_flags_override_variables() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[worker]\nconcurrency = 2\nlease_seconds = 20\n").unwrap();
    let variables = [
        ("DATA_PATCH_WORKER_CONCURRENCY", "3"),
        ("DATA_PATCH_IOTA_RAW_TABLE", "old.raw"),
        ("DATA_PATCH_KAFKA_TOPICS", "anxinyun_data, b"),
    ];
    let mut flags = Overrides::default();
    flags.set_flag("--concurrency", &["worker", "concurrency"], 4);
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let config = load(Some(file.path()), variables, flags).unwrap();
    assert_eq!((config.worker.concurrency, config.worker.lease_seconds), (4, 20));
    assert_eq!(config.iota.raw.table, "old.raw");
    assert_eq!(config.kafka.topics, ["anxinyun_data", "b"]);
}

#[test]
fn what_is_wrong_is_named() {
    for (text, named) in [
        ("[worker]\nconcurency = 2", "worker.concurency"),
        ("[worker]\nconcurrency = \"two\"", "worker.concurrency"),
        ("[worker]\nconcurrency = 0", "worker.concurrency"),
        ("[worker]\nlease_seconds = 2\ncheckpoint_interval_ms = 700", "worker.checkpoint_interval_ms"),
        ("[validation]\nmode = \"strict\"", "validation.mode"),
        ("[server]\nlisten = \"here\"", "server.listen"),
        ("[server]\ntime_zone = \"Mars\"", "server.time_zone"),
        ("[server]\nunknown_fields = \"ignore\"", "server.unknown_fields"),
        ("[server]\ntrusted_proxies = [\"10.0.0.0/40\"]", "server.trusted_proxies"),
        ("[server]\nmax_buffered_bytes = 2000000", "server.max_buffered_bytes"),
        ("[server]\ntoken = \"123456\"", "token"),
        ("[queue]\nurl = \"mysql://x\"", "queue.url"),
        ("[iota]\nurl = \"mysql://x\"", "iota.url"),
        ("[kafka.properties]\nacks = \"1\"", "kafka.properties.acks"),
        ("[kafka]\ntopics = [\"a\"]", "kafka.default_topic"),
        ("[log]\nlevel = \"info=loud=x\"", "log.level"),
        ("[telemetry]\nendpoint = \"collector:4318\"", "telemetry.endpoint"),
        ("[telemetry]\nendpoint = \"http://u:s3cret@collector:4318\"", "telemetry.endpoint"),
        ("[telemetry]\nheaders = \"authorization: Bearer s3cret\"", "telemetry.headers"),
        ("[telemetry]\nsample_ratio = 1.5", "telemetry.sample_ratio"),
        ("[telemetry]\nsample_ratio = \"all\"", "telemetry.sample_ratio: is a string; expected a number"),
        ("worker = 3", "worker: is a whole number; expected a table"),
        ("[worker]\nmax_crashes = -1", "worker.max_crashes: is -1; expected a whole number, not negative"),
        ("[worker.concurrency]\na = 1", "worker.concurrency: is a table; expected a whole number"),
        ("[nothing]\na = 1", "nothing.a is not an option"),
        ("[worker", "not valid TOML"),
    ] {
        let error = from_file(text).unwrap_err().to_string();
        assert!(error.contains(named), "{text}: {error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
    for (name, value) in [
        ("DATA_PATCH_TELEMETRY_SAMPLE_RATIO", "half"),
        ("DATA_PATCH_WORKER_CONCURENCY", "1"),
        ("DATA_PATCH_WORKER_CONCURRENCY", "many"),
        ("DATA_PATCH_IOTA_ASSUME_UNIQUE_ROW_KEY", "yes"),
    ] {
        let error = with(&[(name, value)]).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn an_error_names_where_the_value_comes_from() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display();
    let none: &[(&str, &str)] = &[];
    let in_file = format!("configuration file {path}: ");
    let conflict = "worker.checkpoint_interval_ms: must be at most a third of worker.lease_seconds";
    for (text, variables, flag, begin, rest) in [
        ("[worker]\nconcurrency = 0", none, None, &*in_file, "worker.concurrency: is 0"),
        ("[worker]\nconcurency = 1", none, None, &in_file, "worker.concurency"),
        // A variable of the same section must not take the blame.
        (
            "[worker]\nconcurrency = \"two\"",
            &[("DATA_PATCH_WORKER_MAX_CRASHES", "2")],
            None,
            &in_file,
            "worker.concurrency: is a string",
        ),
        (
            "[worker]\nconcurrency = 2",
            &[("DATA_PATCH_WORKER_CONCURRENCY", "0")],
            None,
            "environment variable DATA_PATCH_WORKER_CONCURRENCY: ",
            "worker.concurrency: is 0",
        ),
        ("", &[("DATA_PATCH_SERVER_LISTEN", "here")], None, "environment variable DATA_PATCH_SERVER_LISTEN: ", "server.listen"),
        ("", &[("DATA_PATCH_SERVER_LISTEN", "here")], Some("there"), "flag --listen: ", "server.listen"),
        ("[kafka.properties]\n\"transactional.id\" = 1", none, None, &in_file, "kafka.properties.transactional.id: "),
        ("[worker]\nlease_seconds = 2\ncheckpoint_interval_ms = 700", none, None, &in_file, conflict),
        // Two origins: the default of one option does not fit the other's value.
        (
            "[kafka]\ntopics = [\"a\"]",
            none,
            None,
            "the built-in config.toml: ",
            &format!("kafka.topics comes from {}", in_file.trim_end_matches(": ")),
        ),
    ] {
        std::fs::write(file.path(), text).unwrap();
        let mut flags = Overrides::default();
        if let Some(listen) = flag {
            flags.set_flag("--listen", &["server", "listen"], listen);
        }
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let error = load(Some(file.path()), variables, flags).unwrap_err().to_string();
        assert!(error.starts_with(begin) && error.contains(rest), "{text}: {error}");
    }
}

#[test]
fn a_share_is_a_number_with_or_without_a_fraction() {
    let ratio = |config: Result<Config, ConfigError>| config.unwrap().telemetry.sample_ratio.to_string();
    assert_eq!(ratio(from_file("[telemetry]\nsample_ratio = 1")), "1");
    assert_eq!(ratio(from_file("[telemetry]\nsample_ratio = 0.25")), "0.25");
    assert_eq!(ratio(with(&[("DATA_PATCH_TELEMETRY_SAMPLE_RATIO", "0.5")])), "0.5");
    assert_eq!(ratio(with(&[("DATA_PATCH_TELEMETRY_SAMPLE_RATIO", "0")])), "0");
}

#[test]
fn the_likely_name_is_suggested() {
    for (text, meant) in [
        ("[worker]\nconcurency = 2", "; did you mean worker.concurrency?"),
        ("[server]\nidle = 2", "; did you mean server.idle_seconds?"),
        ("[iota.raw]\ndevise = \"x\"", "; did you mean iota.raw.device?"),
        ("[workers]\nconcurrency = 2", "; did you mean worker.concurrency?"),
    ] {
        let error = from_file(text).unwrap_err().to_string();
        assert!(error.ends_with(meant), "{text}: {error}");
    }
    let error = with(&[("DATA_PATCH_WORKER_CONCURENCY", "1")]).unwrap_err().to_string();
    assert!(error.contains("names no option; did you mean DATA_PATCH_WORKER_CONCURRENCY?"), "{error}");
    for error in [from_file("[worker]\nnonsense = 2"), with(&[("DATA_PATCH_TYPO", "1")])] {
        let error = error.unwrap_err().to_string();
        assert!(!error.contains("did you mean"), "{error}");
    }
}

#[test]
fn renamed_keys_and_variables_are_refused_with_the_new_name() {
    let renamed = [
        ("worker.cursor_ms", "worker.checkpoint_interval_ms"),
        ("worker.slice_seconds", "worker.preempt_after_seconds"),
        ("worker.stall_seconds", "worker.stall_warning_seconds"),
        ("worker.progress_ms", "worker.progress_log_interval_ms"),
        ("worker.retry_first_ms", "worker.retry_initial_ms"),
        ("worker.retry_max_seconds", "worker.retry_max_ms (in milliseconds)"),
        ("iota.trust_row_key", "iota.assume_unique_row_key"),
        ("queue.readers", "queue.read_connections"),
        ("guard.mode", "validation.mode"),
        ("guard.max_quarantined", "validation.max_quarantined"),
    ];
    let known = option_names::all(&toml::from_str(DEFAULTS).unwrap());
    for (old, new) in renamed {
        let (section, key) = old.split_once('.').unwrap();
        let error = from_file(&format!("[{section}]\n{key} = 1")).unwrap_err().to_string();
        let said = format!("{old} was renamed to {new};");
        assert!(error.starts_with("configuration file ") && error.contains(&said), "{error}");

        let (name, note) = new.split_once(' ').map_or((new, String::new()), |(name, note)| (name, format!(" {note}")));
        assert!(known.iter().any(|key| key == name), "{name} is not an option");
        let variable = option_names::variable(old);
        let error = with(&[(&variable, "1")]).unwrap_err().to_string();
        let said = format!("environment variable {variable} was renamed to {}{note};", option_names::variable(name));
        assert!(error.starts_with(&said), "{error}");
    }
    let tested = renamed.map(|(old, _)| if old.starts_with("guard.") { "guard" } else { old });
    assert!(option_names::RENAMED.iter().all(|(old, ..)| tested.contains(old)), "a renamed key is missing in this test");
}

#[test]
fn every_option_has_a_variable_of_its_own() {
    let known = option_names::all(&toml::from_str(DEFAULTS).unwrap());
    let variables: std::collections::BTreeSet<_> = known.iter().map(|key| option_names::variable(key)).collect();
    assert_eq!(variables.len(), known.len());
}

#[test]
fn the_url_of_the_commands_is_no_option() {
    assert!(with(&[("DATA_PATCH_URL", "http://127.0.0.1:18010")]).is_ok());
    assert!(with(&[("DATA_PATCH_URLS", "x")]).is_err());
}
