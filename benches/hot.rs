//! The steps for each row and message: validating a document, decoding PostgreSQL's COPY, building
//! a record, parsing a request, writing a log line. Run with `cargo bench --bench hot`;
//! `docs/performance.md` has the figures.

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench ends by panicking")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use data_patch::{
    config::ValidationMode,
    protocol::{ClientMessage, Identity, RequestPolicy, Role, Token, reply},
    sink::kafka::RecordBuilder,
    source::{DocType, KeyType, TimeType, copy::Decoder, sample},
    task::{Event, LogEntry, RowKey, TaskId},
    validate::Validator,
};

fn validate(c: &mut Criterion) {
    let reading = sample::readings().next().unwrap();
    let doc = Bytes::from(reading.doc);
    let mut group = c.benchmark_group("validator");
    group.throughput(Throughput::Bytes(doc.len() as u64));
    for mode in [ValidationMode::Et, ValidationMode::Json, ValidationMode::Off] {
        let validator = Validator::new(mode, reading.device_id);
        group.bench_function(format!("{mode:?}"), |b| b.iter(|| validator.check(Some(black_box(&doc).clone())).unwrap()));
    }
    group.finish();
}

fn decode(c: &mut Criterion) {
    const ROWS: usize = 100;
    let reading = sample::readings().next().unwrap();
    let mut stream = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for _ in 0..ROWS {
        stream.extend(3_i16.to_be_bytes());
        for number in [0_i64, reading.id] {
            stream.extend(8_i32.to_be_bytes());
            stream.extend(number.to_be_bytes());
        }
        stream.extend(i32::try_from(reading.doc.len() + 1).unwrap().to_be_bytes());
        stream.push(1);
        stream.extend(reading.doc.as_bytes());
    }
    stream.extend((-1_i16).to_be_bytes());
    let stream = Bytes::from(stream);
    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("copy", |b| {
        b.iter(|| {
            let mut decoder = Decoder::new(KeyType::Integer, TimeType::Instant, DocType::Jsonb);
            decoder.push(black_box(&stream).clone());
            let mut rows = 0;
            while let Some(row) = decoder.row().unwrap() {
                black_box(row);
                rows += 1;
            }
            assert_eq!(rows, ROWS);
        });
    });
    group.finish();
}

fn record(c: &mut Criterion) {
    let reading = sample::readings().next().unwrap();
    let mut records = RecordBuilder::new(TaskId::new(), reading.device_id);
    c.bench_function("record", |b| {
        b.iter(|| records.headers(black_box(1_547_211_780_000_000), &RowKey::Integer(7), black_box(&[b'7'; 300])));
    });
}

fn messages(c: &mut Criterion) {
    let rules = RequestPolicy {
        time_zone: chrono_tz::Asia::Shanghai,
        max_devices: 10_000,
        default_topic: "anxinyun_data".to_owned(),
        topics: Vec::new(),
        default_rate: None,
        max_rate: None,
        ignore_unknown_fields: false,
    };
    let request = r#"{"src":"iota","token":"123456","topic":"savoir_data","thingId":"9d9d14b3-cf77-4cba-934b-faeaf2d153ba","devices":["0fc608c2-5d7c-45a0-a5f7-c423a08fa0d0","b34299aa-625e-4404-a580-fde1d7cbc3e8"],"from":"2019-01-11T21:03:00.000+0800","to":"2019-01-15T14:30:00.000+0800"}"#;
    let token = Token::new("123456");
    let authenticate = |candidate: &str| token.matches(candidate).then(|| Identity::new("default", Role::Operator));
    c.bench_function("parse/request", |b| b.iter(|| ClientMessage::parse(black_box(request), authenticate, &rules).unwrap()));
    let event = LogEntry {
        task: TaskId::new(),
        seq: 7,
        at_ms: 1_547_211_780_005,
        event: Event::Published { device: uuid::Uuid::nil(), published: 178, total: 178 },
        final_state: None,
    };
    c.bench_function("log line", |b| b.iter(|| reply::log(black_box(&event))));
}

criterion_group!(benches, validate, decode, record, messages);
criterion_main!(benches);
