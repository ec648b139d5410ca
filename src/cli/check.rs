//! `data-patch check`.

use std::{fmt::Display, process::ExitCode};

use crate::{
    config::Config,
    iota::Store,
    kafka::Kafka,
    queue::{Clock, Queue},
};

/// Tries each part, whatever the others say; 0 if all can be used.
pub async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let results = [check_queue(config).await, check_store(config).await, check_kafka(config).await];
    let wrong = results.iter().filter(|well| !**well).count();
    if wrong == 0 {
        println!("all is well: data-patch serve can start");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{wrong} of {} parts can't be used", results.len());
    Ok(ExitCode::FAILURE)
}

fn tell(part: &str, found: Result<String, impl Display>) -> bool {
    match found {
        Ok(found) => {
            println!("ok     {part}\n       {}", found.replace('\n', "\n       "));
            true
        }
        Err(error) => {
            println!("WRONG  {part}\n       {error}");
            false
        }
    }
}

async fn check_queue(config: &Config) -> bool {
    let found = match Queue::open(&config.queue, Clock::System).await {
        Err(error) => Err(error.to_string()),
        Ok(queue) => {
            let found = queue.open_jobs().await.map(|jobs| format!("{jobs} jobs wait or run")).map_err(|error| error.to_string());
            queue.close().await;
            found
        }
    };
    tell(&format!("queue {}", config.queue.url), found)
}

async fn check_store(config: &Config) -> bool {
    let found = match Store::new(&config.iota) {
        Err(error) => Err(error),
        Ok(store) => store.mapping().await.map(|mapping| mapping.to_string()),
    };
    tell(&format!("IoTA store {}", config.iota.url), found)
}

async fn check_kafka(config: &Config) -> bool {
    let part = format!("Kafka {}", config.kafka.brokers);
    if config.kafka.is_embedded() {
        return tell(&part, Ok::<_, String>("a broker in the process; it keeps nothing".to_owned()));
    }
    let kafka = match Kafka::new(&config.kafka, &config.kafka.brokers) {
        Ok(kafka) => kafka,
        Err(error) => return tell(&part, Err(error)),
    };
    let mut topics = config.kafka.topics.clone();
    if topics.is_empty() {
        topics.push(config.kafka.default_topic.clone());
    }
    let mut well = true;
    for topic in topics {
        let found = kafka.look_up(&topic).await.map(|()| "exists, and may be written as far as the broker tells".to_owned());
        well &= tell(&format!("{part}, topic {topic}"), found);
    }
    well
}
