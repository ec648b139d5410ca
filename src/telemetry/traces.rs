//! Traces of tasks, for OpenTelemetry. Off unless an endpoint is configured; then each call is a
//! check of an `Option`.
//!
//! A task lives for hours, over restarts and on several instances, and a span is sent when it ends,
//! by the process that it ends in. So ids follow from the task, and nothing has to be kept: the
//! trace id is the id of the task, and the root span's id is a part of it. Under the root are the
//! submission, and each attempt on a job.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tokio::sync::mpsc;
use uuid::Uuid;

use super::TraceMetrics;

/// Spans that wait to be sent. More are dropped: a receiver that is slow holds up no job.
const BUFFERED_SPANS: usize = 4_096;
/// The most events of a span. Of more, older ones are thinned out.
const MAX_EVENTS: usize = 128;

/// Records spans. Clones share the buffer; the default records nothing.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<Recorder>>);

#[derive(Debug)]
struct Recorder {
    spans: mpsc::Sender<SpanData>,
    /// The share of tasks that are traced.
    sample_ratio: f64,
    metrics: TraceMetrics,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(String),
    Number(i64),
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Uuid> for Value {
    fn from(id: Uuid) -> Self {
        Self::Text(id.to_string())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

pub type Attributes = Vec<(&'static str, Value)>;

#[derive(Debug, Clone)]
pub struct SpanEvent {
    pub name: &'static str,
    pub at: SystemTime,
    pub attributes: Attributes,
}

/// A span that has ended.
#[derive(Debug, Clone)]
pub struct SpanData {
    pub trace: Uuid,
    pub id: u64,
    /// `None`: the root.
    pub parent: Option<u64>,
    pub name: &'static str,
    pub start: SystemTime,
    pub end: SystemTime,
    pub attributes: Attributes,
    pub events: Vec<SpanEvent>,
    pub dropped_events: u32,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// The id of the root span: the random part of the task's id, which is never 0.
fn root_id(task: Uuid) -> u64 {
    task.as_u64_pair().1
}

impl Traces {
    /// Starts recording. What is recorded is received from the channel.
    pub fn recording(sample_ratio: f64, metrics: TraceMetrics) -> (Self, mpsc::Receiver<SpanData>) {
        let (spans, receiver) = mpsc::channel(BUFFERED_SPANS);
        (Self(Some(Arc::new(Recorder { spans, sample_ratio, metrics }))), receiver)
    }

    /// Whether the spans of a task are recorded. Every instance decides the same, also after a
    /// restart: a trace is complete or not there.
    pub fn is_traced(&self, task: Uuid) -> bool {
        // The lowest bits of the id are random.
        let share = f64::from(task.as_u64_pair().1 as u32) / f64::from(u32::MAX);
        self.0.as_ref().is_some_and(|recorder| share < recorder.sample_ratio || recorder.sample_ratio >= 1.0)
    }

    /// Whether anything is recorded.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a span under the root of a task's trace.
    pub fn start(&self, task: Uuid, name: &'static str) -> TraceSpan {
        self.start_at(task, name, SystemTime::now())
    }

    /// As [`start`](Self::start), for a span that began before.
    pub fn start_at(&self, task: Uuid, name: &'static str, start: SystemTime) -> TraceSpan {
        self.begin(task, fastrand::u64(1..), Some(root_id(task)), name, start)
    }

    /// Begins the root span of a task's trace.
    pub fn root(&self, task: Uuid, name: &'static str, start: SystemTime) -> TraceSpan {
        self.begin(task, root_id(task), None, name, start)
    }

    fn begin(&self, trace: Uuid, id: u64, parent: Option<u64>, name: &'static str, start: SystemTime) -> TraceSpan {
        let Some(recorder) = self.0.as_ref().filter(|_| self.is_traced(trace)) else { return TraceSpan(None) };
        let (attributes, events) = (Vec::new(), Vec::new());
        let data = SpanData { trace, id, parent, name, start, end: start, attributes, events, dropped_events: 0, error: None };
        TraceSpan(Some(Box::new(OpenSpan { recorder: Arc::clone(recorder), data: Mutex::new(data) })))
    }

    /// Counts spans that could not be recorded.
    pub fn count_dropped(&self, spans: u64) {
        if let Some(recorder) = &self.0 {
            recorder.metrics.dropped.inc_by(spans);
        }
    }
}

/// A span that has not ended. It is sent by [`end`](Self::end) only.
#[derive(Debug)]
pub struct TraceSpan(Option<Box<OpenSpan>>);

#[derive(Debug)]
struct OpenSpan {
    recorder: Arc<Recorder>,
    data: Mutex<SpanData>,
}

impl TraceSpan {
    fn data(&self) -> Option<MutexGuard<'_, SpanData>> {
        // No code panics while it holds this lock.
        self.0.as_ref().map(|span| span.data.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets an attribute.
    pub fn set(&self, name: &'static str, value: impl Into<Value>) {
        if let Some(mut data) = self.data() {
            data.attributes.push((name, value.into()));
        }
    }

    /// Adds an event. `attributes` runs only if the span is recorded.
    pub fn event(&self, name: &'static str, attributes: impl FnOnce() -> Attributes) {
        let Some(mut data) = self.data() else { return };
        if data.events.len() >= MAX_EVENTS {
            let before = data.events.len();
            let mut index = 0;
            data.events.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            data.dropped_events += (before - data.events.len()) as u32;
        }
        data.events.push(SpanEvent { name, at: SystemTime::now(), attributes: attributes() });
    }

    /// Ends the span now.
    pub fn end(self, error: Option<String>) {
        self.end_at(SystemTime::now(), error);
    }

    /// Ends the span at a time. It is dropped if too many wait to be sent.
    pub fn end_at(self, end: SystemTime, error: Option<String>) {
        let Some(span) = self.0 else { return };
        let mut data = span.data.into_inner().unwrap_or_else(PoisonError::into_inner);
        (data.end, data.error) = (end, error);
        if span.recorder.spans.try_send(data).is_err() {
            span.recorder.metrics.dropped.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_span_that_finds_no_room_is_dropped_and_counted() {
        let metrics = TraceMetrics::default();
        let (traces, mut receiver) = Traces::recording(1.0, metrics.clone());
        let task = Uuid::now_v7();
        for _ in 0..BUFFERED_SPANS + 3 {
            traces.start(task, "job").end(None);
        }
        assert_eq!(metrics.dropped.get(), 3);
        let span = receiver.recv().await.unwrap();
        assert_eq!((span.trace, span.parent), (task, Some(root_id(task))));
        assert!(span.id != 0 && root_id(task) != 0);
    }

    #[test]
    fn tasks_are_sampled_by_their_ids() {
        let count = |ratio: f64| {
            let (traces, _receiver) = Traces::recording(ratio, TraceMetrics::default());
            (0..2_000).map(|_| Uuid::now_v7()).filter(|task| traces.is_traced(*task)).count()
        };
        assert_eq!((count(0.0), count(1.0)), (0, 2_000));
        assert!((300..700).contains(&count(0.25)), "{}", count(0.25));
        assert!(!Traces::default().is_traced(Uuid::now_v7()));
    }

    #[tokio::test]
    async fn the_events_of_a_span_are_bounded() {
        let (traces, mut receiver) = Traces::recording(1.0, TraceMetrics::default());
        let span = traces.start(Uuid::now_v7(), "job");
        for rows in 0..10_000_u64 {
            span.event("checkpoint", || vec![("rows", rows.into())]);
        }
        span.end(None);
        let span = receiver.recv().await.unwrap();
        assert!(span.events.len() <= MAX_EVENTS);
        assert_eq!(span.events.len() + span.dropped_events as usize, 10_000);
        assert_eq!(span.events.last().unwrap().attributes, [("rows", Value::Number(9_999))], "the last one is kept");
    }
}
