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
    partitions: i32,
    done: tokio::sync::oneshot::Sender<Result<(), KafkaError>>,
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
            for Order { topic, partitions, done } in incoming {
                let _ = done.send(cluster.create_topic(&topic, partitions, 1).map_err(KafkaError::from));
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
        let gone = |_| KafkaError::Away("the embedded broker has ended".to_owned());
        let (done, made) = tokio::sync::oneshot::channel();
        self.orders.send(Order { topic: topic.to_owned(), partitions, done }).map_err(|error| gone(error.to_string()))?;
        made.await.map_err(|error| gone(error.to_string()))?
    }
}
