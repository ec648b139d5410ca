//! `data-patch check`.

use std::{fmt::Display, process::ExitCode, time::Duration};

use tokio::net::TcpStream;

use super::out;
use crate::{
    config::Config,
    queue::{Clock, Queue},
    sink::kafka::Kafka,
    source::Source,
};

/// For a connection, and for each question to the store.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Tries each part, whatever the others say; 0 if all can be used.
pub async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let results = [check_queue(config).await?, check_store(config).await?, check_kafka(config).await?];
    let wrong = results.iter().filter(|well| !**well).count();
    if wrong == 0 {
        out::line("all is well: data-patch serve can start")?;
        return Ok(ExitCode::SUCCESS);
    }
    out::line(&format!("{wrong} of {} parts can't be used", results.len()))?;
    Ok(ExitCode::FAILURE)
}

fn print_result(part: &str, found: Result<String, impl Display>) -> anyhow::Result<bool> {
    let (text, well) = match found {
        Ok(found) => (format!("ok     {part}\n       {}", found.replace('\n', "\n       ")), true),
        Err(error) => (format!("WRONG  {part}\n       {error}"), false),
    };
    out::line(&text)?;
    Ok(well)
}

async fn check_queue(config: &Config) -> anyhow::Result<bool> {
    let found = match Queue::open(&config.queue.options(), Clock::System).await {
        Err(error) => Err(error.to_string()),
        Ok(queue) => {
            let found = queue
                .backlog()
                .await
                .map(|backlog| format!("{} jobs wait or run", backlog.jobs))
                .map_err(|error| error.to_string());
            queue.close().await;
            found
        }
    };
    print_result(&format!("queue {}", config.queue.url), found)
}

async fn check_store(config: &Config) -> anyhow::Result<bool> {
    let mut iota = config.iota.clone();
    // Whoever looks at this waits for it.
    iota.timeout_seconds = iota.timeout_seconds.min(CHECK_TIMEOUT.as_secs());
    let found = match Source::new(&iota) {
        Err(error) => Err(error),
        Ok(store) => store.examine().await,
    };
    print_result(&format!("IoTA store {}", config.iota.url), found)
}

async fn check_kafka(config: &Config) -> anyhow::Result<bool> {
    let part = format!("Kafka {}", config.kafka.brokers);
    if config.kafka.is_embedded() {
        return print_result(&part, Ok::<_, String>("a broker in the process; it keeps nothing".to_owned()));
    }
    if let Err(error) = reach_any(&config.kafka.brokers).await {
        return print_result(&part, Err::<String, _>(error));
    }
    let kafka = match Kafka::new(&config.kafka, &config.kafka.brokers) {
        Ok(kafka) => kafka,
        Err(error) => return print_result(&part, Err(error)),
    };
    let mut topics = config.kafka.topics.clone();
    if topics.is_empty() {
        topics.push(config.kafka.default_topic.clone());
    }
    let mut well = true;
    for topic in topics {
        let found = kafka.look_up(&topic).await.map(|()| "exists, and may be written as far as the broker tells".to_owned());
        well &= print_result(&format!("{part}, topic {topic}"), found)?;
    }
    Ok(well)
}

/// Whether any broker lets itself be connected to; if none does, what the system says of each. librdkafka would keep trying.
async fn reach_any(brokers: &str) -> Result<(), String> {
    let mut failures = Vec::new();
    for broker in brokers.split(',').map(str::trim).filter(|broker| !broker.is_empty()) {
        // "PLAINTEXT://host:port" is allowed, and the port may be left out.
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
