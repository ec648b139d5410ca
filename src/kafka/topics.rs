//! Looking topics up, so that an unknown one is told before any row is sent, and none is made by accident.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    client::DefaultClientContext,
    error::RDKafkaErrorCode as Code,
};

use super::KafkaError;

/// How long an answer is believed: a task of thousands of devices asks once in a while, not thousands of times.
const FRESH: Duration = Duration::from_secs(30);

/// A broker that has just started, or has not heard yet of a topic that was just created, says for a moment that there is
/// none. That fails jobs for good, so it is asked again before it is believed.
const ASK_AGAIN: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(600),
    Duration::from_secs(1),
    Duration::from_millis(1_500),
    Duration::from_millis(1_500),
];

/// How long it is believed that there is no such topic: the devices of a task do not each ask again and again.
const MISSING_FRESH: Duration = Duration::from_secs(5);

/// How long it is believed that a broker answers, or that none does.
const PING_FRESH: Duration = Duration::from_secs(1);

/// What is known of a topic.
#[derive(Debug, Clone, Copy)]
pub struct Topic {
    /// The largest batch that it takes, where we may know.
    pub max_message_bytes: Option<usize>,
    asked: Instant,
}

pub struct Topics {
    client: Arc<AdminClient<DefaultClientContext>>,
    timeout: Duration,
    /// librdkafka's mock cluster does not know the question, and librdkafka would wait for a broker that does.
    tells_limits: bool,
    known: Mutex<HashMap<String, Topic>>,
    missing: Mutex<HashMap<String, Instant>>,
    last_ping: tokio::sync::Mutex<Option<(Instant, Result<(), KafkaError>)>>,
}

impl Topics {
    pub fn new(config: &ClientConfig, timeout: Duration, tells_limits: bool) -> Result<Self, KafkaError> {
        Ok(Self {
            client: Arc::new(config.create()?),
            timeout,
            tells_limits,
            known: Mutex::default(),
            missing: Mutex::default(),
            last_ping: tokio::sync::Mutex::default(),
        })
    }

    /// What is known of a topic, asked for where it is not known or long ago.
    pub async fn look_up(&self, name: &str) -> Result<Topic, KafkaError> {
        if let Some(topic) = self.known().get(name).filter(|topic| topic.asked.elapsed() < FRESH) {
            return Ok(*topic);
        }
        let missing_since = self.missing().get(name).copied();
        if missing_since.is_some_and(|since| since.elapsed() < MISSING_FRESH) {
            return Err(KafkaError::NoTopic(name.to_owned()));
        }
        let mut answer = self.ask(name).await;
        for wait in ASK_AGAIN {
            if !matches!(answer, Err(KafkaError::NoTopic(_))) {
                break;
            }
            tokio::time::sleep(wait).await;
            answer = self.ask(name).await;
        }
        match &answer {
            Ok(topic) => {
                let mut known = self.known();
                known.retain(|_, topic| topic.asked.elapsed() < FRESH);
                known.insert(name.to_owned(), *topic);
            }
            Err(KafkaError::NoTopic(_)) => {
                let mut missing = self.missing();
                missing.retain(|_, since| since.elapsed() < MISSING_FRESH);
                missing.insert(name.to_owned(), Instant::now());
            }
            Err(_) => {}
        }
        answer
    }

    /// Forgets a topic that has turned out to be gone.
    pub fn forget(&self, name: &str) {
        self.known().remove(name);
    }

    /// Whether a broker answers. However many ask, the brokers are asked once in a while.
    pub async fn ping(&self) -> Result<(), KafkaError> {
        let mut last = self.last_ping.lock().await;
        if let Some((asked, answer)) = &*last
            && asked.elapsed() < PING_FRESH
        {
            return answer.clone();
        }
        let (client, timeout) = (Arc::clone(&self.client), self.timeout);
        let ask = in_background(move || client.inner().fetch_metadata(None, timeout).map(|_| ())).await;
        let answer = ask.and_then(|answer| answer.map_err(KafkaError::from));
        *last = Some((Instant::now(), answer.clone()));
        answer
    }

    async fn ask(&self, name: &str) -> Result<Topic, KafkaError> {
        let (client, timeout, topic) = (Arc::clone(&self.client), self.timeout, name.to_owned());
        let code = in_background(move || {
            let metadata = client.inner().fetch_metadata(Some(&topic), timeout)?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            Ok::<_, KafkaError>(match found {
                Some(found) => found.error().map(Code::from).or(found.partitions().is_empty().then_some(Code::UnknownTopic)),
                None => Some(Code::UnknownTopic),
            })
        })
        .await??;
        match code {
            Some(code) => Err(KafkaError::of_topic(code, name)),
            None => Ok(Topic { max_message_bytes: self.max_message_bytes(name).await, asked: Instant::now() }),
        }
    }

    /// The topic's `max.message.bytes`; unknown where this user may not see it, and on the embedded broker.
    async fn max_message_bytes(&self, name: &str) -> Option<usize> {
        if !self.tells_limits {
            return None;
        }
        let options = AdminOptions::new().request_timeout(Some(self.timeout));
        let answer = self.client.describe_configs(&[ResourceSpecifier::Topic(name)], &options).await.ok()?;
        let resource = answer.into_iter().next()?.ok()?;
        resource.entry_map().get("max.message.bytes")?.value.as_ref()?.parse().ok()
    }

    fn missing(&self) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Topic>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// librdkafka's look-ups block.
async fn in_background<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> Result<T, KafkaError> {
    tokio::task::spawn_blocking(ask).await.map_err(|error| KafkaError::Away(error.to_string()))
}
