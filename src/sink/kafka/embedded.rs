//! librdkafka's mock cluster inside this process, for the demo and the tests. It speaks the real
//! protocol and stores nothing on disk.

use std::{sync::mpsc, time::Duration};

use rdkafka::mocking::MockCluster;

use super::KafkaError;

/// The id of the broker that is up.
const LIVE_BROKER: i32 = 1;
/// The id of the broker that is down, if there is one.
const DOWN_BROKER: i32 = 2;

/// A broker that runs until this is dropped.
pub struct EmbeddedBroker {
    brokers: String,
    commands: mpsc::Sender<Command>,
}

struct Command {
    topic: String,
    kind: CommandKind,
    reply: tokio::sync::oneshot::Sender<Result<(), KafkaError>>,
}

enum CommandKind {
    /// Creates a topic with this number of partitions.
    CreateTopic(i32),
    /// Makes the broker (second) the leader of the partition (first).
    SetLeader(i32, i32),
    /// Delays each answer.
    SetRoundTrip(Duration),
}

impl EmbeddedBroker {
    /// Starts a broker on a free port of this machine.
    ///
    /// # Errors
    /// librdkafka cannot start it.
    pub async fn start() -> Result<Self, KafkaError> {
        Self::start_brokers(1).await
    }

    /// As [`start`](Self::start), with a second broker that is down, which
    /// [`set_leader`](Self::set_leader) can make the leader of a partition; for tests.
    ///
    /// # Errors
    /// librdkafka cannot start it.
    #[doc(hidden)]
    pub async fn start_beside_a_dead_one() -> Result<Self, KafkaError> {
        Self::start_brokers(2).await
    }

    async fn start_brokers(count: i32) -> Result<Self, KafkaError> {
        let (started, starting) = tokio::sync::oneshot::channel();
        let (commands, incoming) = mpsc::channel::<Command>();
        // The cluster must stay on the thread that created it.
        std::thread::spawn(move || {
            let cluster = MockCluster::new(count).and_then(|cluster| {
                (2..=count).try_for_each(|broker| cluster.broker_down(broker))?;
                Ok(cluster)
            });
            let cluster = match cluster {
                Ok(cluster) => cluster,
                Err(error) => {
                    let _ = started.send(Err(KafkaError::from(error)));
                    return;
                }
            };
            let _ = started.send(Ok(cluster.bootstrap_servers()));
            for Command { topic, kind, reply } in incoming {
                let result = match kind {
                    CommandKind::CreateTopic(partitions) => cluster.create_topic(&topic, partitions, 1).and_then(|()| {
                        (0..partitions).try_for_each(|partition| cluster.partition_leader(&topic, partition, Some(LIVE_BROKER)))
                    }),
                    CommandKind::SetLeader(partition, broker) => cluster.partition_leader(&topic, partition, Some(broker)),
                    CommandKind::SetRoundTrip(time) => cluster.broker_round_trip_time(LIVE_BROKER, time),
                };
                let _ = reply.send(result.map_err(KafkaError::from));
            }
        });
        let brokers = starting.await.map_err(|_| KafkaError::Rejected("the embedded broker did not start".to_owned()))??;
        Ok(Self { brokers, commands })
    }

    /// Host and port.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// librdkafka cannot create it.
    pub async fn create_topic(&self, topic: &str, partitions: i32) -> Result<(), KafkaError> {
        self.send_command(topic, CommandKind::CreateTopic(partitions)).await
    }

    /// Delays each answer, as a distant broker does.
    ///
    /// # Errors
    /// librdkafka cannot do it.
    pub async fn set_round_trip(&self, time: Duration) -> Result<(), KafkaError> {
        self.send_command("", CommandKind::SetRoundTrip(time)).await
    }

    /// Makes the broker that is down the leader of a partition, so that writes to it fail, or the
    /// broker that is up; for tests. (Without any leader, librdkafka's mock cluster crashes if a
    /// batch arrives at that moment.)
    ///
    /// # Errors
    /// librdkafka cannot do it.
    #[doc(hidden)]
    pub async fn set_leader(&self, topic: &str, partition: i32, is_alive: bool) -> Result<(), KafkaError> {
        self.send_command(topic, CommandKind::SetLeader(partition, if is_alive { LIVE_BROKER } else { DOWN_BROKER })).await
    }

    async fn send_command(&self, topic: &str, kind: CommandKind) -> Result<(), KafkaError> {
        let closed = |_| KafkaError::Unavailable("the embedded broker has ended".to_owned());
        let (reply, result) = tokio::sync::oneshot::channel();
        self.commands.send(Command { topic: topic.to_owned(), kind, reply }).map_err(|error| closed(error.to_string()))?;
        result.await.map_err(|error| closed(error.to_string()))?
    }
}
