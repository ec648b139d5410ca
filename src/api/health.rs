//! What operators ask: is it ready, and how is it doing?

use std::{
    fmt::Display,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{sync::watch, time::timeout};
use warp::{Reply, http::StatusCode, reply::Response};

use super::ServerState;
use crate::telemetry::{AllMetrics, Exposition, Snapshot};

/// How long what was found counts as the present state, however many ask.
const CHECK_TTL: Duration = Duration::from_secs(1);
/// How long a request waits for checks that are under way; then it is answered from what was found before.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(800);
/// How long a check may take before the part counts as not answering.
const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for the store: its check may have to wait for a connection that reads.
const SOURCE_CHECK_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Serialize)]
struct Parts {
    queue: String,
    store: String,
    kafka: String,
}

/// What is known of the parts that the service needs. They are checked in the background, at most once a second, and only
/// while somebody asks.
#[derive(Debug, Default)]
pub struct Readiness {
    queue: Part,
    store: Part,
    kafka: Part,
}

/// 200 when the queue can be written, and store and broker answer; else 503. The body says which does not, and why.
pub async fn ready(context: &ServerState) -> Response {
    let Readiness { queue, store, kafka } = &context.readiness;
    let (asked_queue, asked_store, asked_kafka) = (context.queue.clone(), context.store.clone(), context.kafka.clone());
    queue.check(async move { asked_queue.probe().await });
    store.check(async move { asked_store.ping().await });
    kafka.check(async move { asked_kafka.ping().await });
    let _ = timeout(ANSWER_TIMEOUT, async { tokio::join!(queue.checked(), store.checked(), kafka.checked()) }).await;
    let parts = Parts {
        queue: queue.describe(HEALTH_CHECK_TIMEOUT),
        store: store.describe(SOURCE_CHECK_TIMEOUT),
        kafka: kafka.describe(HEALTH_CHECK_TIMEOUT),
    };
    let well = [&parts.queue, &parts.store, &parts.kafka].iter().all(|part| *part == "ok");
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    warp::reply::with_status(warp::reply::json(&parts), status).into_response()
}

/// What is known of one part.
#[derive(Debug, Default)]
struct Part {
    known: Arc<watch::Sender<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// What the last check found, and when it ended.
    last: Option<(Instant, Result<(), String>)>,
    /// When the check began that is under way.
    checking: Option<Instant>,
}

impl Part {
    /// Begins a check, unless one is under way or has just ended.
    fn check<E: Display>(&self, check: impl Future<Output = Result<(), E>> + Send + 'static) {
        let begins = self.known.send_if_modified(|known| {
            let is_known = known.last.as_ref().is_some_and(|(at, _)| at.elapsed() < CHECK_TTL);
            let begins = known.checking.is_none() && !is_known;
            if begins {
                known.checking = Some(Instant::now());
            }
            begins
        });
        if begins {
            let known = Arc::clone(&self.known);
            tokio::spawn(async move {
                let found = check.await.map_err(|error| error.to_string());
                known.send_modify(|known| *known = Known { last: Some((Instant::now(), found)), checking: None });
            });
        }
    }

    /// Waits until no check is under way.
    async fn checked(&self) {
        // The sender is in here, so there is one.
        let _ = self.known.subscribe().wait_for(|known| known.checking.is_none()).await;
    }

    /// "ok", or what is wrong and since when that is known.
    fn describe(&self, patience: Duration) -> String {
        let known = self.known.borrow();
        match (&known.last, known.checking.map(|since| since.elapsed())) {
            (_, Some(took)) if took >= patience => format!("no answer for {} s", took.as_secs()),
            (None, _) => "checking; nothing is known yet, ask again".to_owned(),
            (Some((_, Ok(()))), _) => "ok".to_owned(),
            (Some((at, Err(error))), _) if at.elapsed() >= 2 * CHECK_TTL => format!("{error} ({} s ago)", at.elapsed().as_secs()),
            (Some((_, Err(error))), _) => error.clone(),
        }
    }
}

/// The metrics, in the format that the scraper accepts.
pub async fn metrics(context: &ServerState, accept: Option<&str>) -> Response {
    let ServerState { queue, store, kafka, .. } = context;
    let (backlog, queue_bytes) = tokio::join!(timeout(HEALTH_CHECK_TIMEOUT, queue.backlog()), queue.disk_bytes());
    // A queue that does not answer is no queue without jobs.
    let backlog = backlog.ok().and_then(Result::ok);
    let now = Snapshot {
        jobs_unfinished: backlog.map(|backlog| backlog.jobs),
        oldest_waiting_job_seconds: backlog.map(|backlog| backlog.oldest_due.as_secs_f64()),
        queue_bytes,
        in_flight_bytes: kafka.in_flight_bytes() as u64,
    };
    let all =
        AllMetrics { service: &context.metrics, queue: queue.metrics(), store: store.metrics(), kafka: kafka.metrics(), now };
    let exposition = Exposition::accepted(accept);
    warp::reply::with_header(all.render(exposition), "content-type", exposition.content_type()).into_response()
}
