//! The root spans of traces: one for each task, sent when it is finished.

use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    queue::Queue,
    task::{Event, LogEntry},
    telemetry::traces::{TraceSpan, Traces},
};

/// Records the tasks that this instance finishes, until `stop`. A task that is finished is read once
/// more, on a read connection.
pub async fn trace_finished(queue: Queue, traces: Traces, stop: CancellationToken) {
    let mut finished = queue.finished_tasks();
    loop {
        let next = tokio::select! {
            biased;
            next = finished.next() => next,
            () = stop.cancelled() => return,
        };
        match next {
            None => return,
            Some(Err(missed)) => traces.count_dropped(missed),
            Some(Ok(entry)) if traces.is_traced(entry.task.0) => record(&queue, &traces, &entry).await,
            Some(Ok(_)) => {}
        }
    }
}

async fn record(queue: &Queue, traces: &Traces, entry: &LogEntry) {
    let (Event::Finished(summary), Some(state)) = (&entry.event, entry.final_state) else { return };
    let at = |ms: i64| SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    let end = at(entry.at_ms);
    let span = traces.root(entry.task.0, "task", end - Duration::from_millis(summary.took_ms).min(Duration::from_hours(8_760)));
    span.set("data_patch.state", state.as_str());
    span.set("data_patch.devices", summary.devices.total());
    span.set("data_patch.published", summary.published);
    span.set("data_patch.quarantined", summary.quarantined);
    // Without these the trace is still useful.
    if let Ok(Some(task)) = queue.task(entry.task).await {
        let token = task.requester.map(|requester| requester.token).unwrap_or_default();
        describe(&span, task.thing, task.topic, &token);
        if let Some(retry_of) = task.retry_of {
            span.set("data_patch.retry_of", retry_of.0);
        }
    }
    let failed = summary.devices.failed_devices;
    span.end_at(end, (failed > 0).then(|| format!("{failed} of {} devices failed", summary.devices.total())));
}

/// What a task is about, and whose token asked for it.
pub fn describe(span: &TraceSpan, thing: Uuid, topic: String, token: &str) {
    span.set("data_patch.thing", thing);
    span.set("messaging.destination.name", topic);
    span.set("data_patch.token", token);
}
