//! Looks topics up before any row is sent: an unknown topic is reported, and never created by
//! accident.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use moka::{Expiry, future::Cache};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    client::DefaultClientContext,
    error::RDKafkaErrorCode as Code,
};

use super::KafkaError;

/// How long a topic is cached, so that a task of thousands of devices does not ask thousands of
/// times.
const TTL: Duration = Duration::from_secs(30);

/// How long it is cached that a topic does not exist.
const NEGATIVE_TTL: Duration = Duration::from_secs(5);

/// How long it is cached whether a broker answers.
const PING_TTL: Duration = Duration::from_secs(1);

/// How long the number of a topic's partitions is kept after the last look-up, to notice a change.
const PARTITIONS_TTL: Duration = Duration::from_hours(24);

/// Requests may name any topic, so the caches have a limit.
const MAX_CACHED: u64 = 10_000;

/// Pauses before asking again for a topic that does not exist. A broker that has just started, or
/// has not yet heard of a new topic, answers for a moment that there is none, and an unknown topic
/// fails a job for good.
const MISSING_TOPIC_RETRIES: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(600),
    Duration::from_secs(1),
    Duration::from_millis(1_500),
    Duration::from_millis(1_500),
];

/// What is known of a topic.
#[derive(Debug, Clone, Copy)]
pub struct Topic {
    pub partitions: i32,
    pub settings: Settings,
}

/// Settings of a topic that this user may read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// The largest batch that the topic accepts.
    pub max_message_bytes: Option<usize>,
    /// Kafka keeps only the last message of each key.
    pub is_compacted: bool,
    /// How far ahead of the broker's clock a timestamp may be, in milliseconds.
    pub timestamp_after_ms: Option<u64>,
    /// How far behind the broker's clock a timestamp may be, in milliseconds.
    pub timestamp_before_ms: Option<u64>,
}

pub struct Topics {
    client: Arc<AdminClient<DefaultClientContext>>,
    timeout: Duration,
    /// False for librdkafka's mock cluster: it does not know the request, and librdkafka would wait
    /// for a broker that does.
    supports_describe_configs: bool,
    allow_compacted: bool,
    /// `None` for a topic that does not exist.
    known: Cache<String, Option<Topic>>,
    partitions: Cache<String, i32>,
    last_ping: Cache<(), Result<(), KafkaError>>,
}

impl Topics {
    pub fn new(
        config: &ClientConfig,
        timeout: Duration,
        supports_describe_configs: bool,
        allow_compacted: bool,
    ) -> Result<Self, KafkaError> {
        Ok(Self {
            client: Arc::new(config.create()?),
            timeout,
            supports_describe_configs,
            allow_compacted,
            known: cache(Ttl { found: TTL, missing: NEGATIVE_TTL }),
            partitions: Cache::builder().max_capacity(MAX_CACHED).time_to_live(PARTITIONS_TTL).build(),
            last_ping: Cache::builder().max_capacity(1).time_to_live(PING_TTL).build(),
        })
    }

    /// Returns a topic from the cache or asks the brokers, once however many callers wait for it.
    /// Errors other than an unknown topic are not cached.
    pub async fn look_up(&self, name: &str) -> Result<Topic, KafkaError> {
        let found = self.known.try_get_with_by_ref(name, self.fetch_with_retries(name)).await;
        let found = found.map_err(|error| KafkaError::clone(&error))?;
        found.ok_or_else(|| KafkaError::UnknownTopic(name.to_owned()))
    }

    /// Removes a topic from the cache, because it is gone or has changed.
    pub async fn invalidate(&self, name: &str) {
        self.known.invalidate(name).await;
    }

    /// Whether a broker answers. However many callers ask, the brokers are asked once per
    /// [`PING_TTL`].
    pub async fn ping(&self) -> Result<(), KafkaError> {
        let (client, timeout) = (Arc::clone(&self.client), self.timeout);
        let ask = in_background(move || Ok(client.inner().fetch_metadata(None, timeout).map(|_| ())?));
        self.last_ping.get_with((), async { ask.await.flatten() }).await
    }

    async fn fetch_with_retries(&self, name: &str) -> Result<Option<Topic>, KafkaError> {
        let mut answer = self.fetch(name).await;
        for pause in MISSING_TOPIC_RETRIES {
            if !matches!(answer, Err(KafkaError::UnknownTopic(_))) {
                break;
            }
            tokio::time::sleep(pause).await;
            answer = self.fetch(name).await;
        }
        match answer {
            Ok(topic) => {
                self.warn_if_partitions_changed(name, topic.partitions).await;
                Ok(Some(topic))
            }
            Err(KafkaError::UnknownTopic(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn warn_if_partitions_changed(&self, name: &str, now: i32) {
        let before = self.partitions.get(name).await;
        self.partitions.insert(name.to_owned(), now).await;
        if let Some(before) = before.filter(|before| *before != now) {
            tracing::warn!(
                topic = name,
                before,
                now,
                "the topic's partitions have changed: most devices' rows go to other partitions from now on, and a consumer \
                 may read them before earlier rows of the same device"
            );
        }
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
        Ok(Topic { partitions, settings })
    }

    /// The topic's settings. `None` if this user may not read them, and on the embedded broker.
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
}

/// How long an answer is cached.
struct Ttl {
    found: Duration,
    missing: Duration,
}

impl Expiry<String, Option<Topic>> for Ttl {
    fn expire_after_create(&self, _: &String, topic: &Option<Topic>, _: Instant) -> Option<Duration> {
        Some(if topic.is_some() { self.found } else { self.missing })
    }
}

fn cache(ttl: Ttl) -> Cache<String, Option<Topic>> {
    Cache::builder().max_capacity(MAX_CACHED).expire_after(ttl).build()
}

/// Runs a call of librdkafka that blocks on a thread for blocking calls.
///
/// # Errors
/// The call has panicked.
pub async fn in_background<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> Result<T, KafkaError> {
    tokio::task::spawn_blocking(ask).await.map_err(|error| KafkaError::Unavailable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUND: Topic = Topic {
        partitions: 3,
        settings: Settings { max_message_bytes: None, is_compacted: false, timestamp_after_ms: None, timestamp_before_ms: None },
    };

    #[tokio::test]
    async fn an_answer_is_cached_for_its_own_time() {
        let (short, long) = (Duration::from_millis(10), Duration::from_hours(1));
        let cache = cache(Ttl { found: long, missing: short });
        let ask = async |answer| cache.try_get_with_by_ref("t", async { Ok::<_, KafkaError>(answer) }).await.unwrap().is_some();
        // The second answer replaces the first, which has expired, and must expire as well.
        for _ in 0..2 {
            assert!(!ask(None).await);
            tokio::time::sleep(2 * short).await;
        }
        assert!(ask(Some(FOUND)).await, "that the topic does not exist is cached for too long");
        tokio::time::sleep(2 * short).await;
        assert!(ask(None).await, "that the topic exists is cached for too short a time");
    }
}
