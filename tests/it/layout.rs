//! The layout of the source's tables is checked, and changes are detected.

use data_patch::source::{Selection, Source, SourceError};
use sqlx::{AssertSqlSafe, Executor, Row as _};
use uuid::Uuid;

use crate::{
    source::{all_of, keys, open},
    support::{Client, Reading, TestApp, TestBroker, TestSource, doc, eventually, message, real},
};

async fn docs(source: &Source, selection: Selection) -> Result<Vec<String>, SourceError> {
    let mut rows = source.rows(selection);
    let mut docs = Vec::new();
    while let Some(batch) = rows.next().await? {
        docs.extend(batch.into_iter().map(|row| String::from_utf8(row.doc.unwrap().into()).unwrap()));
    }
    Ok(docs)
}

#[tokio::test]
async fn a_document_whose_type_changes_is_read_by_its_new_type() {
    for (before, after) in [("text", "jsonb"), ("jsonb", "text"), ("json", "jsonb")] {
        let test = TestSource::empty().await;
        if !test.is_postgres() {
            return;
        }
        test.execute(&format!("ALTER TABLE raw_data ALTER doc TYPE {before} USING doc::text::{before}")).await;
        let (_, device) = test.add_rows(10).await;
        let source = open(&test, |_| {});
        assert_eq!(docs(&source, all_of(device)).await.unwrap(), test.docs(device).await);
        test.execute(&format!("ALTER TABLE raw_data ALTER doc TYPE {after} USING doc::text::{after}")).await;
        // A read that started with the old layout fails, and can be restarted.
        match docs(&source, all_of(device)).await {
            Ok(_) => {}
            Err(error) => assert!(error.is_retryable() && matches!(error, SourceError::Changed(_)), "{error}"),
        }
        assert_eq!(docs(&source, all_of(device)).await.unwrap(), test.docs(device).await, "{before} to {after}");
    }
}

#[tokio::test]
async fn a_time_whose_type_changes_is_read_by_its_new_type() {
    let test = TestSource::empty().await;
    if !test.is_postgres() {
        return;
    }
    test.execute("ALTER TABLE raw_data ALTER \"triggerTime\" TYPE timestamp USING \"triggerTime\" AT TIME ZONE 'Asia/Shanghai'")
        .await;
    let device = Uuid::new_v4();
    test.add(&[Reading { id: 1, device, time_ms: 1_547_211_780_000, doc: Some(doc(device, 1)) }]).await;
    test.execute("UPDATE raw_data SET \"triggerTime\" = '2019-01-11 21:03:00'").await;
    let source = open(&test, |_| {});
    let time = "2019-01-11T13:03:00Z".parse().unwrap();
    let selection = Selection { from: time, to: time, ..all_of(device) };
    assert_eq!(keys(&source, selection.clone()).await, ["1"]);
    test.execute(
        "ALTER TABLE raw_data ALTER \"triggerTime\" TYPE timestamptz USING \"triggerTime\" AT TIME ZONE 'Asia/Shanghai'",
    )
    .await;
    let mut rows = source.rows(selection.clone());
    assert!(matches!(rows.next().await, Err(SourceError::Changed(_))), "it was read by the old type");
    assert_eq!(keys(&source, selection.clone()).await, ["1"]);
    assert_eq!(source.mapping().await.unwrap().layout(), "timestamptz/bigint");
    assert_eq!(source.count(&selection).await.unwrap(), 1);
}

// A COPY takes its snapshot before it waits for the table's lock. If the table is rewritten
// meanwhile, it looks empty, and the device would end without rows.
#[tokio::test]
async fn a_table_that_is_rewritten_while_a_page_waits_for_it_is_not_empty() {
    let test = TestSource::empty().await;
    let Some(mut connection) = test.postgres().await else { return };
    let (_, device) = test.add_rows(100).await;
    let source = open(&test, |_| {});
    source.mapping().await.unwrap();
    let rewrite = "BEGIN; ALTER TABLE raw_data ALTER \"triggerTime\" TYPE timestamptz USING \"triggerTime\" + interval '0 s'";
    connection.execute(rewrite).await.unwrap();
    let release = async {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'raw_data'::regclass";
        eventually("the page waits for the lock", || async {
            let mut other = test.postgres().await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(waits)).fetch_one(&mut other).await.unwrap().get::<i64, _>(0) > 0
        })
        .await;
        connection.execute("COMMIT").await.unwrap();
    };
    let (read, ()) = tokio::join!(keys(&source, all_of(device)), release);
    assert_eq!(read.len(), 100);
}

#[tokio::test]
async fn children_that_inherit_are_not_covered_by_their_parents_unique_index() {
    let test = TestSource::empty().await;
    if !test.is_postgres() {
        return;
    }
    let (_, device) = test.add_rows(1).await;
    test.execute("CREATE TABLE raw_2020 () INHERITS (raw_data)").await;
    let refused = open(&test, |_| {}).mapping().await.unwrap_err();
    let error_text = refused.to_string();
    assert!(
        matches!(refused, SourceError::Mapping(_))
            && error_text.contains("raw_2020")
            && error_text.contains("assume_unique_row_key"),
        "{error_text}"
    );
    let trusted = open(&test, |overrides| {
        overrides.set(&["iota", "assume_unique_row_key"], true);
    });
    assert!(trusted.mapping().await.unwrap().warnings.iter().any(|warning| warning.contains("raw_2020")));
    assert_eq!(keys(&trusted, all_of(device)).await, ["1"]);
}

#[tokio::test]
async fn partitions_are_covered_by_the_unique_index_of_their_table() {
    let test = TestSource::without_tables().await;
    if !test.is_postgres() {
        return;
    }
    test.execute(
        r#"CREATE TABLE "Device" (id uuid PRIMARY KEY, name text, "thingId" uuid NOT NULL);
           CREATE TABLE raw_data (id bigint, "deviceId" uuid NOT NULL, "triggerTime" timestamptz NOT NULL, doc jsonb,
                                  PRIMARY KEY ("triggerTime", id)) PARTITION BY RANGE ("triggerTime");
           CREATE INDEX ON raw_data ("deviceId", "triggerTime", id);
           CREATE TABLE raw_2019 PARTITION OF raw_data FOR VALUES FROM ('2019-01-01') TO ('2020-01-01');
           CREATE TABLE raw_2020 PARTITION OF raw_data FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');"#,
    )
    .await;
    let (_, device) = test.add_rows(10).await;
    let source = open(&test, |_| {});
    assert!(source.mapping().await.unwrap().warnings.is_empty());
    assert_eq!(keys(&source, all_of(device)).await.len(), 10);
}

#[tokio::test]
async fn a_column_may_have_the_name_of_a_querys_alias() {
    if real("READINGS").is_some() {
        return; // It is about tables.
    }
    let test = TestSource::empty().await;
    let device = Uuid::new_v4();
    let rows = [1, 2, 3].map(|id| Reading { id, device, time_ms: 1_600_000_000_000 + id, doc: Some(doc(device, 9 - id)) });
    test.add(&rows).await;
    test.execute("ALTER TABLE raw_data RENAME COLUMN \"triggerTime\" TO d").await;
    let source = open(&test, |overrides| {
        overrides.set(&["iota", "raw", "time"], "d").set(&["iota", "page_rows"], 1);
    });
    assert_eq!(keys(&source, all_of(device)).await, ["1", "2", "3"]);
}

#[tokio::test]
async fn an_ambiguous_hour_is_read_both_times() {
    let test = TestSource::empty().await;
    if !test.is_postgres() {
        return;
    }
    let device = Uuid::new_v4();
    test.execute("ALTER TABLE raw_data ALTER \"triggerTime\" TYPE timestamp").await;
    for (id, time) in [(1, "01:59:59"), (2, "02:05:00"), (3, "02:30:00"), (4, "02:55:00"), (5, "03:00:00")] {
        test.execute(&format!("INSERT INTO raw_data VALUES ({id}, '{device}', '2024-10-27 {time}', '{{}}')")).await;
    }
    let source = open(&test, |overrides| {
        overrides.set(&["iota", "time_zone"], "Europe/Berlin").set(&["iota", "page_rows"], 2);
    });
    for (from, to, expected) in [
        // The first and the second occurrence.
        ("00:00:00", "00:59:59", vec!["2", "3", "4"]),
        ("01:00:00", "01:59:59", vec!["2", "3", "4"]),
        // From late in the first to early in the second.
        ("00:50:00", "01:10:00", vec!["2", "4"]),
        ("00:29:00", "01:10:00", vec!["2", "3", "4"]),
        ("02:00:00", "02:00:00", vec!["5"]),
    ] {
        let time = |time| format!("2024-10-27T{time}Z").parse().unwrap();
        let selection = Selection { device, from: time(from), to: time(to), after: None };
        assert_eq!(source.count(&selection).await.unwrap(), expected.len() as u64, "{from} {to}");
        assert_eq!(keys(&source, selection).await, expected, "{from} {to}");
    }
    let doubt = |from: &str, to: &str| {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        let source = source.clone();
        async move { source.mapping().await.unwrap().range_note(from, to, to) }
    };
    let note = doubt("2024-10-27T00:50:00Z", "2024-10-28T00:00:00Z").await.unwrap();
    assert!(note.contains("from 2024-10-27 02:00:00 to 03:00:00 exist twice in Europe/Berlin"), "{note}");
    assert!(doubt("2024-10-28T00:00:00Z", "2024-10-29T00:00:00Z").await.is_none());
}

// 3,405 rows were skipped: the position was a local time, and was taken for an instant eight hours
// later.
#[tokio::test]
async fn a_job_that_resumes_in_another_layout_restarts_its_range_and_logs_it() {
    let source = TestSource::empty().await;
    let Some(mut connection) = source.postgres().await else { return };
    let local = "ALTER TABLE raw_data ALTER \"triggerTime\" TYPE timestamp USING \"triggerTime\" AT TIME ZONE 'Asia/Shanghai'";
    connection.execute(local).await.unwrap();
    let (thing, device) = (Uuid::new_v4(), Uuid::new_v4());
    source.add_device(thing, device, "应变计").await;
    let rows = format!(
        "INSERT INTO raw_data SELECT n, '{device}', '2019-01-12'::timestamp + n * interval '1 s',
         '{}'::jsonb FROM generate_series(1, 20000) AS n",
        doc(device, 1)
    );
    sqlx::raw_sql(AssertSqlSafe(rows)).execute(&mut connection).await.unwrap();
    let topic = TestBroker::start().await.topic().await;
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let slow = |overrides: &mut data_patch::config::Overrides| {
        overrides
            .set(&["iota", "page_rows"], 50)
            .set(&["kafka", "in_flight_bytes"], 65_536)
            .set(&["worker", "progress_log_interval_ms"], 10);
    };
    let app = TestApp::start_on(folder.clone(), source.clone(), topic, slow).await;
    let mut client = app.client().await;
    let task = client.submit(&Client::request(thing, &[device], &app.topic.name)).await;
    client.until(|line| message(line).contains("data published(")).await;
    let topic = app.topic.clone();
    app.stop().await;
    let found = topic.read().await.len();
    assert!(found < 20_000, "it was over before it was stopped");
    let instant =
        "ALTER TABLE raw_data ALTER \"triggerTime\" TYPE timestamptz USING \"triggerTime\" AT TIME ZONE 'Asia/Shanghai'";
    connection.execute(instant).await.unwrap();
    let app = TestApp::start_on(folder, source, topic, |_| {}).await;
    let mut client = app.client().await;
    client.attach(&task, 0).await;
    let log = client.log().await;
    let messages: Vec<_> = log.iter().map(message).collect();
    assert!(
        messages
            .iter()
            .any(|line| line.contains("timestamp(Asia/Shanghai)/bigint") && line.contains("is timestamptz/bigint now")),
        "{messages:#?}"
    );
    assert!(messages.last().unwrap().contains("20000 rows published"), "{messages:#?}");
    assert_eq!(app.topic.read().await.len(), found + 20_000);
    app.stop().await;
}
