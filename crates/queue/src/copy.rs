//! Copying a whole queue to another store, while no service runs on either.

use std::time::Duration;

use crate::{
    Clock, OpenError, QueueError, QueueOptions,
    store::{
        self,
        copy::{CopyEnd, Place, Record, Role, Table},
    },
    task::{JobState, TaskId},
};

/// Rows that are read and written at once.
const PAGE: u32 = 1_000;

/// Why a queue was not copied. Nothing is left in the target, unless an error of the target's
/// server hides whether it has committed: then the next copy says that the target is not empty.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("source and target are the same queue")]
    Same,
    #[error("{queue} has no queue to copy: there is no such file, or it has not the tables of a queue. Check the URL")]
    NoQueue { queue: String },
    #[error(
        "{queue} is in use by {services} running service(s). Stop them and copy again; one that was killed counts as running for {} s in PostgreSQL",
        silent_for.as_secs()
    )]
    InUse { queue: String, services: u64, silent_for: Duration },
    #[error(
        "{queue} is not empty: it has {tasks} task(s). A queue is copied only to one without tasks; name another file, database or schema"
    )]
    NotEmpty { queue: String, tasks: u64 },
    #[error("{queue}: {source}. Nothing was copied; both queues are as they were")]
    Store { queue: String, source: QueueError },
    #[error("{what} has a NUL in a text that has to stay as it is, and {queue} stores none. Nothing was copied")]
    Nul { queue: String, what: String },
    #[error("the copy differs from the original in {what}. Nothing was copied; please report this")]
    Differs { what: String },
}

/// What a copy is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyPhase {
    Copying,
    /// Both queues are read again.
    Comparing,
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyProgress {
    pub phase: CopyPhase,
    /// Rows of all tables that this phase is done with, of `total`.
    pub rows: u64,
    pub total: u64,
}

/// What was copied, and found equal afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyReport {
    pub tasks: u64,
    pub jobs: u64,
    /// Jobs that are not finished: they go on where they were.
    pub open_jobs: u64,
    /// Jobs that were running in the source; they are queued in the target.
    pub leases_ended: u64,
    pub log_entries: u64,
    pub quarantined_rows: u64,
    /// Texts whose NUL became U+FFFD, because the target stores none.
    pub replaced_texts: u64,
}

impl CopyReport {
    fn rows(&mut self, table: Table) -> &mut u64 {
        match table {
            Table::Tasks => &mut self.tasks,
            Table::Jobs => &mut self.jobs,
            Table::LogEntries => &mut self.log_entries,
            Table::Quarantined => &mut self.quarantined_rows,
        }
    }
}

/// Copies all tasks, jobs, log entries and quarantined rows of one queue to an empty one, which is
/// created if it does not exist. Then both are read again and compared. All or nothing is copied.
/// The source is migrated to this version's tables and otherwise not changed.
///
/// # Errors
/// A service runs on one of the queues, the target has tasks, or one of them cannot be used.
pub async fn copy(
    from: &QueueOptions,
    to: &QueueOptions,
    clock: &Clock,
    progress: impl FnMut(CopyProgress),
) -> Result<CopyReport, CopyError> {
    if from.url == to.url {
        return Err(CopyError::Same);
    }
    let source = store::open_for_copy(from, clock.clone(), Role::Source).await?;
    let mut target = store::open_for_copy(to, clock.clone(), Role::Target).await?;
    let tasks = target.count(Table::Tasks).await;
    match tasks.map_err(|source| error_of(&*target, source))? {
        0 => {}
        tasks => return Err(CopyError::NotEmpty { queue: target.name().to_owned(), tasks }),
    }
    let mut copy = Copy { source, target, report: CopyReport::default(), total: 0, done: 0, progress };
    for table in Table::ALL {
        let rows = copy.source.count(table).await;
        copy.total += rows.map_err(|source| error_of(&*copy.source, source))?;
    }
    for table in Table::ALL {
        copy.copy(table).await?;
    }
    copy.done = 0;
    for table in Table::ALL {
        copy.compare(table).await?;
    }
    let Copy { source, target, report, .. } = copy;
    let queue = target.name().to_owned();
    target.commit().await.map_err(|source| CopyError::Store { queue, source })?;
    // Until here nobody has worked on the source.
    drop(source);
    Ok(report)
}

struct Copy<P> {
    source: Box<dyn CopyEnd>,
    target: Box<dyn CopyEnd>,
    report: CopyReport,
    total: u64,
    /// Rows that this phase is done with.
    done: u64,
    progress: P,
}

impl<P: FnMut(CopyProgress)> Copy<P> {
    /// Copies the rows of a table. A page is read while the one before it is written.
    async fn copy(&mut self, table: Table) -> Result<(), CopyError> {
        let mut page = self.source.read(table, Place::start(), PAGE).await.map_err(|source| error_of(&*self.source, source))?;
        while let Some(last) = page.last() {
            let place = last.place();
            for row in &mut page {
                self.report.leases_ended += u64::from(row.end_lease());
                self.report.open_jobs += u64::from(is_open(row));
                self.report.replaced_texts += replace_nul(row, &*self.target);
                if !self.target.stores_nul() && row.texts_for_programs().iter().any(|text| text.contains('\0')) {
                    let queue = self.target.name().to_owned();
                    return Err(CopyError::Nul { queue, what: described(table, &row.place()) });
                }
            }
            *self.report.rows(table) += page.len() as u64;
            self.advance(CopyPhase::Copying, page.len());
            let (next, written) = tokio::join!(self.source.read(table, place, PAGE), self.target.write(page));
            written.map_err(|source| error_of(&*self.target, source))?;
            page = next.map_err(|source| error_of(&*self.source, source))?;
        }
        Ok(())
    }

    /// Reads a table of both queues, and compares them row by row.
    async fn compare(&mut self, table: Table) -> Result<(), CopyError> {
        let (mut original_after, mut copied_after) = (Place::start(), Place::start());
        loop {
            let (original, copied) =
                tokio::join!(self.source.read(table, original_after, PAGE), self.target.read(table, copied_after, PAGE));
            let mut original = original.map_err(|source| error_of(&*self.source, source))?;
            let copied = copied.map_err(|source| error_of(&*self.target, source))?;
            for row in &mut original {
                row.end_lease();
                replace_nul(row, &*self.target);
            }
            if let Some((one, other)) = original.iter().zip(&copied).find(|(one, other)| one != other) {
                return Err(CopyError::Differs { what: described(table, &one.place().min(other.place())) });
            }
            if original.len() != copied.len() {
                let longer = if original.len() > copied.len() { &original } else { &copied };
                let first = longer.get(original.len().min(copied.len())).map_or(Place::start(), Record::place);
                return Err(CopyError::Differs { what: described(table, &first) });
            }
            let (Some(one), Some(other)) = (original.last(), copied.last()) else { return Ok(()) };
            (original_after, copied_after) = (one.place(), other.place());
            self.advance(CopyPhase::Comparing, original.len());
        }
    }

    fn advance(&mut self, phase: CopyPhase, rows: usize) {
        self.done += rows as u64;
        (self.progress)(CopyProgress { phase, rows: self.done, total: self.total });
    }
}

fn error_of(end: &dyn CopyEnd, source: QueueError) -> CopyError {
    CopyError::Store { queue: end.name().to_owned(), source }
}

fn is_open(row: &Record) -> bool {
    matches!(row, Record::Job(job) if matches!(job.state, JobState::Queued | JobState::Running))
}

/// Replaces NUL in texts for people if the target stores none, and returns the number of texts.
fn replace_nul(row: &mut Record, target: &dyn CopyEnd) -> u64 {
    if target.stores_nul() {
        return 0;
    }
    let mut replaced = 0;
    for text in row.texts_for_people().into_iter().flatten().filter(|text| text.contains('\0')) {
        *text = text.replace('\0', "\u{fffd}");
        replaced += 1;
    }
    replaced
}

fn described(table: Table, place: &Place) -> String {
    let (task, device, number) = (TaskId(place.task), place.device, place.number);
    match table {
        Table::Tasks => format!("task {task}"),
        Table::Jobs => format!("device {number} of task {task}"),
        Table::LogEntries => format!("log entry {number} of task {task}"),
        Table::Quarantined => format!("a quarantined row of device {device} of task {task}"),
    }
}
