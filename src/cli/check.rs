//! `data-patch check`.

use std::{fmt::Display, path::Path, process::ExitCode, time::Duration};

use tokio::net::TcpStream;

use super::out;
use crate::{
    api::auth,
    app::queue_options,
    config::Config,
    queue::{Clock, Queue},
    sink::kafka::Kafka,
    source::Source,
};

/// Timeout for a connection, and for each query of the source.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Checks each dependency, independent of the others. The exit code is 0 if all are usable.
pub async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let mut results = vec![check_queue(config).await?, check_source(config).await?, check_kafka(config).await?];
    if let Some(path) = &config.server.tokens_file {
        results.push(check_tokens(path)?);
    }
    let failed = results.iter().filter(|ok| !**ok).count();
    if failed == 0 {
        out::line("all is well: data-patch serve can start")?;
        return Ok(ExitCode::SUCCESS);
    }
    out::line(&format!("{failed} of {} parts can't be used", results.len()))?;
    Ok(ExitCode::FAILURE)
}

fn print_result(name: &str, result: Result<String, impl Display>) -> anyhow::Result<bool> {
    let (text, ok) = match result {
        Ok(result) => (format!("ok     {name}\n       {}", result.replace('\n', "\n       ")), true),
        Err(error) => (format!("WRONG  {name}\n       {error}"), false),
    };
    out::line(&text)?;
    Ok(ok)
}

async fn check_queue(config: &Config) -> anyhow::Result<bool> {
    let result = match Queue::open(&queue_options(&config.queue), Clock::System).await {
        Err(error) => Err(error.to_string()),
        Ok(queue) => {
            let result = queue
                .backlog()
                .await
                .map(|backlog| format!("{} jobs wait or run", backlog.jobs))
                .map_err(|error| error.to_string());
            queue.close().await;
            result
        }
    };
    print_result(&format!("queue {}", config.queue.url), result)
}

fn check_tokens(path: &Path) -> anyhow::Result<bool> {
    let result = auth::read_tokens_file(path, &[]).map(|tokens| format!("{} tokens", tokens.len()));
    print_result(&format!("tokens file {}", path.display()), result)
}

async fn check_source(config: &Config) -> anyhow::Result<bool> {
    let mut iota = config.iota.clone();
    // Shorter, because a person waits for the output.
    iota.timeout_seconds = iota.timeout_seconds.min(CHECK_TIMEOUT.as_secs());
    let result = match Source::new(&iota) {
        Err(error) => Err(error),
        Ok(source) => source.examine().await,
    };
    print_result(&format!("IoTA source {}", config.iota.url), result)
}

async fn check_kafka(config: &Config) -> anyhow::Result<bool> {
    let name = format!("Kafka {}", config.kafka.brokers);
    if config.kafka.is_embedded() {
        return print_result(&name, Ok::<_, String>("a broker in the process; it stores nothing".to_owned()));
    }
    if let Err(error) = check_reachable(&config.kafka.brokers).await {
        return print_result(&name, Err::<String, _>(error));
    }
    let kafka = match Kafka::new(&config.kafka, &config.kafka.brokers) {
        Ok(kafka) => kafka,
        Err(error) => return print_result(&name, Err(error)),
    };
    let mut topics = config.kafka.topics.clone();
    if topics.is_empty() {
        topics.push(config.kafka.default_topic.clone());
    }
    let mut ok = true;
    for topic in topics {
        let result = kafka.look_up(&topic).await.map(|()| "exists, and is writable as far as the broker reports".to_owned());
        ok &= print_result(&format!("{name}, topic {topic}"), result)?;
    }
    Ok(ok)
}

/// Connects to the brokers until one accepts; otherwise returns the error of each. librdkafka would
/// retry for ever.
async fn check_reachable(brokers: &str) -> Result<(), String> {
    let mut failures = Vec::new();
    for broker in brokers.split(',').map(str::trim).filter(|broker| !broker.is_empty()) {
        // "PLAINTEXT://host:port" is allowed, and the port is optional.
        let address = broker.rsplit("//").next().unwrap_or(broker);
        let address = if address.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok()) {
            address.to_owned()
        } else {
            format!("{address}:9092")
        };
        match tokio::time::timeout(CHECK_TIMEOUT, TcpStream::connect(&address)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => failures.push(format!("{address}: {error}")),
            Err(_) => failures.push(format!("{address}: no answer within {} s", CHECK_TIMEOUT.as_secs())),
        }
    }
    Err(failures.join(", "))
}
