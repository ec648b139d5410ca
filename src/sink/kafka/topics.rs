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
const TTL: Duration = Duration::from_secs(30);

/// A broker that has just started, or has not heard yet of a topic that was just created, says for a moment that there is
/// none. That fails jobs for good, so it is asked again before it is believed.
const MISSING_TOPIC_RETRIES: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(600),
    Duration::from_secs(1),
    Duration::from_millis(1_500),
    Duration::from_millis(1_500),
];

/// How long it is believed that there is no such topic: the devices of a task do not each ask again and again.
const NEGATIVE_TTL: Duration = Duration::from_secs(5);

/// How long it is believed that a broker answers, or that none does.
const PING_TTL: Duration = Duration::from_secs(1);

/// How long the number of a topic's partitions is remembered after the topic was asked for last.
const MAX_REMEMBERED: Duration = Duration::from_hours(24);

/// What is known of a topic.
#[derive(Debug, Clone, Copy)]
pub struct Topic {
    pub partitions: i32,
    pub settings: Settings,
    asked: Instant,
    /// It must be asked for again, however lately it was.
    is_forgotten: bool,
}

/// Settings of a topic, where this user may see them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// The largest batch that it takes.
    pub max_message_bytes: Option<usize>,
    /// It keeps only the last message of each key, sooner or later.
    is_compacted: bool,
    /// How far ahead of the broker's clock a timestamp may be, in milliseconds.
    pub timestamp_after_ms: Option<u64>,
    /// How far behind the broker's clock a timestamp may be, in milliseconds.
    pub timestamp_before_ms: Option<u64>,
}

pub struct Topics {
    client: Arc<AdminClient<DefaultClientContext>>,
    timeout: Duration,
    /// librdkafka's mock cluster does not know the question, and librdkafka would wait for a broker that does.
    supports_describe_configs: bool,
    allow_compacted: bool,
    known: Mutex<HashMap<String, Topic>>,
    missing: Mutex<HashMap<String, Instant>>,
    last_ping: tokio::sync::Mutex<Option<(Instant, Result<(), KafkaError>)>>,
}

impl Topics {
    pub fn new(
        config: &ClientConfig,
        timeout: Duration,
        tells_settings: bool,
        allow_compacted: bool,
    ) -> Result<Self, KafkaError> {
        Ok(Self {
            client: Arc::new(config.create()?),
            timeout,
            supports_describe_configs: tells_settings,
            allow_compacted,
            known: Mutex::default(),
            missing: Mutex::default(),
            last_ping: tokio::sync::Mutex::default(),
        })
    }

    /// What is known of a topic, asked for where it is not known or long ago.
    pub async fn look_up(&self, name: &str) -> Result<Topic, KafkaError> {
        if let Some(topic) = self.known().get(name).filter(|topic| topic.asked.elapsed() < TTL && !topic.is_forgotten) {
            return Ok(*topic);
        }
        let missing_since = self.missing().get(name).copied();
        if missing_since.is_some_and(|since| since.elapsed() < NEGATIVE_TTL) {
            return Err(KafkaError::UnknownTopic(name.to_owned()));
        }
        let mut answer = self.fetch(name).await;
        for wait in MISSING_TOPIC_RETRIES {
            if !matches!(answer, Err(KafkaError::UnknownTopic(_))) {
                break;
            }
            tokio::time::sleep(wait).await;
            answer = self.fetch(name).await;
        }
        match &answer {
            Ok(topic) => {
                let mut known = self.known();
                known.retain(|_, topic| topic.asked.elapsed() < MAX_REMEMBERED);
                let before = known.insert(name.to_owned(), *topic).map(|topic| topic.partitions);
                if before.is_some_and(|before| before != topic.partitions) {
                    tracing::warn!(
                        topic = name,
                        before,
                        now = topic.partitions,
                        "the topic's partitions have changed: most devices' rows go to other partitions from now on, and a consumer \
                         may read them before earlier rows of the same device"
                    );
                }
            }
            Err(KafkaError::UnknownTopic(_)) => {
                let mut missing = self.missing();
                missing.retain(|_, since| since.elapsed() < NEGATIVE_TTL);
                missing.insert(name.to_owned(), Instant::now());
            }
            Err(_) => {}
        }
        answer
    }

    /// Forgets a topic that has turned out to be gone.
    pub fn invalidate(&self, name: &str) {
        if let Some(topic) = self.known().get_mut(name) {
            topic.is_forgotten = true;
        }
    }

    /// Whether a broker answers. However many ask, the brokers are asked once in a while.
    pub async fn ping(&self) -> Result<(), KafkaError> {
        let mut last = self.last_ping.lock().await;
        if let Some((asked, answer)) = &*last
            && asked.elapsed() < PING_TTL
        {
            return answer.clone();
        }
        let (client, timeout) = (Arc::clone(&self.client), self.timeout);
        let ask = in_background(move || client.inner().fetch_metadata(None, timeout).map(|_| ())).await;
        let answer = ask.and_then(|answer| answer.map_err(KafkaError::from));
        *last = Some((Instant::now(), answer.clone()));
        answer
    }

    async fn fetch(&self, name: &str) -> Result<Topic, KafkaError> {
        let (client, timeout, topic) = (Arc::clone(&self.client), self.timeout, name.to_owned());
        let (code, partitions) = in_background(move || {
            let metadata = client.inner().fetch_metadata(Some(&topic), timeout)?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            let partitions = found.map_or(0, |found| found.partitions().len());
            let code = found.map_or(Some(Code::UnknownTopic), |found| found.error().map(Code::from));
            Ok::<_, KafkaError>((code.or((partitions == 0).then_some(Code::UnknownTopic)), partitions))
        })
        .await??;
        if let Some(code) = code {
            return Err(KafkaError::of_topic(code, name));
        }
        let settings = self.settings(name).await.unwrap_or_default();
        if settings.is_compacted && !self.allow_compacted {
            return Err(KafkaError::Compacted(name.to_owned()));
        }
        let partitions = i32::try_from(partitions).unwrap_or(i32::MAX);
        Ok(Topic { partitions, settings, asked: Instant::now(), is_forgotten: false })
    }

    /// The topic's settings; unknown where this user may not see them, and on the embedded broker.
    async fn settings(&self, name: &str) -> Option<Settings> {
        if !self.supports_describe_configs {
            return None;
        }
        let options = AdminOptions::new().request_timeout(Some(self.timeout));
        let answer = self.client.describe_configs(&[ResourceSpecifier::Topic(name)], &options).await.ok()?;
        let resource = answer.into_iter().next()?.ok()?;
        let entries = resource.entry_map();
        let text = |name: &str| entries.get(name)?.value.as_deref();
        let number = |name: &str| text(name)?.parse().ok();
        Some(Settings {
            max_message_bytes: text("max.message.bytes").and_then(|bytes| bytes.parse().ok()),
            is_compacted: text("cleanup.policy").is_some_and(|policy| policy.split(',').any(|part| part.trim() == "compact")),
            timestamp_after_ms: number("message.timestamp.after.max.ms"),
            timestamp_before_ms: number("message.timestamp.before.max.ms"),
        })
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
    tokio::task::spawn_blocking(ask).await.map_err(|error| KafkaError::Unavailable(error.to_string()))
}
