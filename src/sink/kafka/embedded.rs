//! librdkafka's mock cluster in the process: for the demo and the tests. It speaks the real protocol and keeps nothing.

use std::sync::mpsc;

use rdkafka::mocking::MockCluster;

use super::KafkaError;

/// The broker that is up.
const ALIVE: i32 = 1;
/// The one that is down, if there is one.
const DEAD: i32 = 2;

/// A broker that lives as long as this.
pub struct EmbeddedBroker {
    brokers: String,
    commands: mpsc::Sender<Command>,
}

struct Command {
    topic: String,
    what: CommandKind,
    done: tokio::sync::oneshot::Sender<Result<(), KafkaError>>,
}

enum CommandKind {
    /// A topic of so many partitions.
    Create(i32),
    /// The partition has this broker as its leader.
    Lead(i32, i32),
}

impl EmbeddedBroker {
    /// Starts it on a free port of this machine.
    ///
    /// # Errors
    /// librdkafka can't start it.
    pub async fn start() -> Result<Self, KafkaError> {
        Self::start_brokers(1).await
    }

    /// The same, with a second broker that is down, and that [`set_leader`](Self::set_leader) can make a partition's leader;
    /// for tests.
    ///
    /// # Errors
    /// librdkafka can't start it.
    #[doc(hidden)]
    pub async fn start_beside_a_dead_one() -> Result<Self, KafkaError> {
        Self::start_brokers(2).await
    }

    async fn start_brokers(count: i32) -> Result<Self, KafkaError> {
        let (started, starting) = tokio::sync::oneshot::channel();
        let (orders, incoming) = mpsc::channel::<Command>();
        // The cluster may not leave the thread that made it.
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
            for Command { topic, what, done } in incoming {
                let carried_out = match what {
                    CommandKind::Create(partitions) => cluster.create_topic(&topic, partitions, 1).and_then(|()| {
                        (0..partitions).try_for_each(|partition| cluster.partition_leader(&topic, partition, Some(ALIVE)))
                    }),
                    CommandKind::Lead(partition, broker) => cluster.partition_leader(&topic, partition, Some(broker)),
                };
                let _ = done.send(carried_out.map_err(KafkaError::from));
            }
        });
        let brokers = starting.await.map_err(|_| KafkaError::Rejected("the embedded broker did not start".to_owned()))??;
        Ok(Self { brokers, commands: orders })
    }

    /// Host and port.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// librdkafka can't make it.
    pub async fn create_topic(&self, topic: &str, partitions: i32) -> Result<(), KafkaError> {
        self.send_command(topic, CommandKind::Create(partitions)).await
    }

    /// Makes the broker that is down a partition's leader, so that nothing can be written to it, or the one that is up; for
    /// tests. (A partition without any leader makes librdkafka's mock cluster crash when a batch comes at that moment.)
    ///
    /// # Errors
    /// librdkafka can't do it.
    #[doc(hidden)]
    pub async fn set_leader(&self, topic: &str, partition: i32, is_alive: bool) -> Result<(), KafkaError> {
        self.send_command(topic, CommandKind::Lead(partition, if is_alive { ALIVE } else { DEAD })).await
    }

    async fn send_command(&self, topic: &str, what: CommandKind) -> Result<(), KafkaError> {
        let gone = |_| KafkaError::Unavailable("the embedded broker has ended".to_owned());
        let (done, carried_out) = tokio::sync::oneshot::channel();
        self.commands.send(Command { topic: topic.to_owned(), what, done }).map_err(|error| gone(error.to_string()))?;
        carried_out.await.map_err(|error| gone(error.to_string()))?
    }
}
