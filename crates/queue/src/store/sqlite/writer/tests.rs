//! Which pending requests share a transaction, and in what order.

use std::sync::Arc;

use super::{thread::MAX_BATCH, *};
use crate::Clock;

fn writer(folder: &tempfile::TempDir) -> Writer {
    let connection = Connection::open(folder.path().join("x.db")).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE x (n INTEGER PRIMARY KEY)").unwrap();
    let clock = QueueClock::open(&connection, Clock::Manual(Arc::default())).unwrap();
    Writer::start(connection, LogHub::default(), clock, QueueMetrics::default()).unwrap()
}

/// Blocks the writer until the returned sender is dropped.
fn block(writer: &Writer) -> (impl Future<Output = Result<(), QueueError>>, std::sync::mpsc::Sender<()>) {
    let (go, gate) = std::sync::mpsc::channel();
    let blocked = writer.write(move |_| {
        let _ = gate.recv();
        Ok(())
    });
    (blocked, go)
}

#[tokio::test]
async fn a_failing_change_does_not_fail_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let writer = writer(&folder);
    let insert = |n: i64| writer.write(move |tx| tx.connection.execute("INSERT INTO x VALUES (?)", [n]));
    let (first, go) = block(&writer);
    let others = async { tokio::join!(insert(1), insert(1), insert(2), async move { drop(go) }) };
    let (first, (one, again, two, ())) = tokio::join!(first, others);
    assert!(first.is_ok() && one.is_ok() && again.is_err() && two.is_ok(), "{first:?} {one:?} {again:?} {two:?}");
    writer.close().await;
    assert!(matches!(insert(3).await, Err(QueueError::Closed)));
}

#[tokio::test]
async fn end_of_batch_requests_run_after_later_small_ones() {
    let folder = tempfile::tempdir().unwrap();
    let writer = writer(&folder);
    let made = Arc::new(Mutex::new(Vec::new()));
    let note = |what: &'static str| {
        let made = Arc::clone(&made);
        move |_: &mut Tx<'_>| {
            made.lock().unwrap().push(what);
            Ok(())
        }
    };
    let (first, go) = block(&writer);
    let (last, one, two) = (writer.write_at_end_of_batch(note("last")), writer.write(note("one")), writer.write(note("two")));
    let (first, last, one, two, ()) = tokio::join!(first, last, one, two, async move { drop(go) });
    assert!(first.is_ok() && last.is_ok() && one.is_ok() && two.is_ok());
    assert_eq!(*made.lock().unwrap(), ["one", "two", "last"]);
}

/// The number of committed rows, read by a second connection.
fn committed(folder: &tempfile::TempDir) -> i64 {
    let reader = Connection::open(folder.path().join("x.db")).unwrap();
    reader.query_row("SELECT count(*) FROM x", [], |row| row.get(0)).unwrap()
}

const INSERT: &str =
    "WITH RECURSIVE i (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < ?) INSERT INTO x SELECT NULL FROM i";

/// Inserts `rows` rows, and notes its name and the uncommitted rows before it.
fn insert(
    folder: &Arc<tempfile::TempDir>,
    notes: &Notes,
    name: &'static str,
    rows: i64,
) -> impl FnMut(&mut Tx<'_>) -> rusqlite::Result<usize> + Send + use<> {
    let (folder, notes) = (Arc::clone(folder), Arc::clone(notes));
    move |tx| {
        let all: i64 = tx.connection.query_row("SELECT count(*) FROM x", [], |row| row.get(0))?;
        notes.lock().unwrap().push((name, all - committed(&folder)));
        tx.connection.execute(INSERT, [rows])
    }
}

type Notes = Arc<Mutex<Vec<(&'static str, i64)>>>;

#[tokio::test]
async fn a_transaction_is_bounded_in_rows() {
    let (folder, notes) = (Arc::new(tempfile::tempdir().unwrap()), Notes::default());
    let writer = writer(&folder);
    let (first, go) = block(&writer);
    let small = futures_util::future::join_all((0..100).map(|_| writer.write(insert(&folder, &notes, "small", 100))));
    let large = futures_util::future::join_all((0..20).map(|_| writer.write_large(insert(&folder, &notes, "large", 900))));
    let (first, small, large, ()) = tokio::join!(first, small, large, async move { drop(go) });
    assert!(first.is_ok() && small.iter().chain(&large).all(Result::is_ok));
    assert_eq!(committed(&folder), 100 * 100 + 20 * 900);
    let most = notes.lock().unwrap().iter().map(|(_, before)| *before).max().unwrap();
    assert!(
        most < MAX_ROWS_PER_TRANSACTION.cast_signed() && most >= 900,
        "a transaction had {most} rows when a change joined it"
    );
}

#[tokio::test]
async fn a_small_change_waits_for_at_most_one_large_one() {
    let (folder, notes) = (Arc::new(tempfile::tempdir().unwrap()), Notes::default());
    let writer = writer(&folder);
    let (first, go) = block(&writer);
    let large = futures_util::future::join_all((0..64).map(|_| writer.write_large(insert(&folder, &notes, "large", 5_000))));
    let small = writer.write(insert(&folder, &notes, "small", 1));
    let claim = writer.write_at_end_of_batch(insert(&folder, &notes, "claim", 1));
    let (first, large, small, claim, ()) = tokio::join!(first, large, small, claim, async move { drop(go) });
    assert!(first.is_ok() && small.is_ok() && claim.is_ok() && large.iter().all(Result::is_ok));
    let notes = notes.lock().unwrap();
    let position = |name| notes.iter().position(|(other, _)| *other == name).unwrap();
    assert!(position("small") <= 1 && position("claim") <= 2, "{notes:?}");
}

#[tokio::test]
async fn a_large_change_gets_its_turn_while_small_ones_wait() {
    let (folder, notes) = (Arc::new(tempfile::tempdir().unwrap()), Notes::default());
    let writer = writer(&folder);
    let (first, go) = block(&writer);
    let large = writer.write_large(insert(&folder, &notes, "large", 1));
    // More than fit into one transaction.
    let small = futures_util::future::join_all((0..4 * MAX_BATCH).map(|_| writer.write(insert(&folder, &notes, "small", 1))));
    let (first, large, small, ()) = tokio::join!(first, large, small, async move { drop(go) });
    assert!(first.is_ok() && large.is_ok() && small.iter().all(Result::is_ok));
    let position = notes.lock().unwrap().iter().position(|(name, _)| *name == "large").unwrap();
    assert!(position <= MAX_BATCH, "it was applied after {position} small ones");
}
