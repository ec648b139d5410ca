//! librdkafka's mock cluster in the process: for the demo and the tests. It speaks the real protocol and keeps nothing.

use std::sync::mpsc;

use rdkafka::mocking::MockCluster;

use super::KafkaError;

/// A broker that lives as long as this.
pub struct EmbeddedBroker {
    brokers: String,
    orders: mpsc::Sender<Order>,
}

struct Order {
    topic: String,
    what: What,
    done: tokio::sync::oneshot::Sender<Result<(), KafkaError>>,
}

enum What {
    /// A topic of so many partitions.
    Create(i32),
    /// The partition has this broker as its leader, or none.
    Lead(i32, Option<i32>),
}

impl EmbeddedBroker {
    /// Starts it on a free port of this machine.
    ///
    /// # Errors
    /// librdkafka can't start it.
    pub async fn start() -> Result<Self, KafkaError> {
        let (started, starting) = tokio::sync::oneshot::channel();
        let (orders, incoming) = mpsc::channel::<Order>();
        // The cluster may not leave the thread that made it.
        std::thread::spawn(move || {
            let cluster = match MockCluster::new(1) {
                Ok(cluster) => cluster,
                Err(error) => {
                    let _ = started.send(Err(KafkaError::from(error)));
                    return;
                }
            };
            let _ = started.send(Ok(cluster.bootstrap_servers()));
            for Order { topic, what, done } in incoming {
                let carried_out = match what {
                    What::Create(partitions) => cluster.create_topic(&topic, partitions, 1),
                    What::Lead(partition, leader) => cluster.partition_leader(&topic, partition, leader),
                };
                let _ = done.send(carried_out.map_err(KafkaError::from));
            }
        });
        let brokers = starting.await.map_err(|_| KafkaError::Refused("the embedded broker did not start".to_owned()))??;
        Ok(Self { brokers, orders })
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
        self.order(topic, What::Create(partitions)).await
    }

    /// Takes a partition's leader away, so that nothing can be written to it, or gives it back; for tests.
    ///
    /// # Errors
    /// librdkafka can't do it.
    #[doc(hidden)]
    pub async fn set_leader(&self, topic: &str, partition: i32, has_leader: bool) -> Result<(), KafkaError> {
        self.order(topic, What::Lead(partition, has_leader.then_some(1))).await
    }

    async fn order(&self, topic: &str, what: What) -> Result<(), KafkaError> {
        let gone = |_| KafkaError::Away("the embedded broker has ended".to_owned());
        let (done, carried_out) = tokio::sync::oneshot::channel();
        self.orders.send(Order { topic: topic.to_owned(), what, done }).map_err(|error| gone(error.to_string()))?;
        carried_out.await.map_err(|error| gone(error.to_string()))?
    }
}
