//! Sample readings: two things, eighteen devices, eleven days.
//!
//! The demo and the tests fill their SQLite source from here; `deploy/postgres/10-iota-sample.sql`
//! computes the same rows for PostgreSQL, digit for digit. Both use integer arithmetic only: values
//! are thousandths, and `/` truncates toward zero in both languages. A number that is changed here
//! must be changed there.
//!
//! Pure functions, without I/O and without other modules of the crate.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::{Uuid, uuid};

/// Offset of the sample's local time, without daylight saving.
const UTC_OFFSET: TimeDelta = TimeDelta::hours(8);
/// 2019-01-11T00:00:00+08:00, in Unix seconds: the start of the readings.
const START: i64 = 1_547_136_000;
const DAY: i64 = 86_400;
/// Seconds from `START` to the end (exclusive): 2019-01-22T00:00:00+08:00.
const SPAN: i64 = 11 * DAY;

/// One of the two requests in the service's contract, without its token.
#[derive(Debug, Clone, Copy)]
pub struct SampleRequest {
    pub thing_id: Uuid,
    /// In the order of the contract.
    pub devices: &'static [Uuid],
    /// Included.
    pub from: &'static str,
    /// Included.
    pub to: &'static str,
    pub topic: &'static str,
}

/// The contract's first request: the hydrostatic levels of a bridge. 静力水准仪06 has 178 readings in
/// it.
pub const BRIDGE: SampleRequest = SampleRequest {
    thing_id: uuid!("9d9d14b3-cf77-4cba-934b-faeaf2d153ba"),
    devices: &[
        uuid!("0fc608c2-5d7c-45a0-a5f7-c423a08fa0d0"),
        uuid!("e2d26fce-7362-4036-925b-5125453b2d4e"),
        uuid!("f586ebba-5f93-4634-9e29-f329183cf61e"),
        uuid!("67bbd235-7357-41b7-8e37-ff9ccf6cf9eb"),
        uuid!("b34299aa-625e-4404-a580-fde1d7cbc3e8"),
        uuid!("bfefe2f7-ff9c-40dc-be66-a3c6e0032017"),
        uuid!("08d2cb15-33c0-42bc-9ff8-523bdb157afd"),
    ],
    from: "2019-01-11T21:03:00.000+0800",
    to: "2019-01-15T14:30:00.000+0800",
    topic: "savoir_data",
};

/// The contract's second request: the instruments in a dam.
pub const DAM: SampleRequest = SampleRequest {
    thing_id: uuid!("7dea63f9-d15f-4ef2-8d70-d8e256d637a0"),
    devices: &[
        uuid!("6ba6c6a1-f96d-4e33-bc0c-4b40411f3a88"),
        uuid!("f63f4033-01f4-4de1-ac1d-661164ecbf70"),
        uuid!("46449009-b7c6-4265-b07a-4e033be83624"),
        uuid!("9abdb3de-2ce3-49eb-8f6f-c827e9e89d72"),
        uuid!("7b9aa5e4-a3cd-418b-9219-1302ffee2750"),
        uuid!("6b009f76-b356-4365-8c1c-b2e4608a71ae"),
        uuid!("46a95110-ec3f-4f13-9a21-6ef4bb83dcc4"),
        uuid!("76cdbad9-15e4-488e-8c81-3c8fda22d01e"),
        uuid!("2cf24193-4111-43c1-b57e-a22b80fe89b6"),
        uuid!("ccbb2ec8-944c-456c-84af-41cc5417d17a"),
        uuid!("b5c7cc36-1a86-4a37-836c-e5b00cc892b3"),
    ],
    from: "2019-01-11T21:03:00.000+0800",
    to: "2019-01-21T16:30:00.000+0800",
    topic: "savoir_data",
};

/// The rows of `"Thing"`: ids and names.
pub const THINGS: [(Uuid, &str); 2] = [(BRIDGE.thing_id, "滨江大桥"), (DAM.thing_id, "青山水库大坝")];

/// 静力水准仪06: the device of the contract's example log.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
pub const LEVEL_06: Uuid = BRIDGE.devices[4];

/// A row of `"Device"`, with the parameters of its readings.
#[derive(Debug, Clone, Copy)]
pub struct Device {
    pub id: Uuid,
    pub thing_id: Uuid,
    pub name: &'static str,
    kind: &'static Kind,
    /// Seconds from one reading to the next.
    interval: i64,
    /// Seconds from `START` to the first reading: real loggers do not start on the full hour.
    phase: i64,
}

/// A row of `raw_data`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Unique over all devices, and ascending in the order of [`readings`]: 500123 is the 123rd
    /// reading of device 5.
    pub id: i64,
    pub device_id: Uuid,
    pub time: DateTime<Utc>,
    /// Compact JSON.
    pub doc: String,
}

/// A kind of instrument: each measures two quantities.
#[derive(Debug)]
struct Kind {
    number: i64,
    a: Channel,
    b: Channel,
}

/// A measured quantity, in thousandths of its unit: a daily wave on a slow trend, with noise.
#[derive(Debug)]
struct Channel {
    name: &'static str,
    base: i64,
    /// Added once per device number, so that no two devices have the same values.
    step: i64,
    /// Amplitude of the daily wave.
    wave: i64,
    /// Change per day.
    trend: i64,
    noise: i64,
}

#[rustfmt::skip]
mod kind {
    use super::{Channel, Kind};

    /// 静力水准仪, hydrostatic level: kPa, °C.
    pub(super) static LEVEL: Kind = Kind { number: 1,
        a: Channel { name: "pressure", base: 12_500, step: 37, wave: 180, trend: 6, noise: 15 },
        b: Channel { name: "temp", base: 2_300, step: 45, wave: 3_800, trend: -140, noise: 60 } };
    /// 测斜仪, inclinometer: degrees about two axes.
    pub(super) static TILT: Kind = Kind { number: 2,
        a: Channel { name: "x", base: 420, step: 11, wave: 35, trend: 3, noise: 4 },
        b: Channel { name: "y", base: -180, step: 7, wave: 25, trend: -2, noise: 4 } };
    /// 应变计, vibrating-wire strain gauge: Hz, °C.
    pub(super) static STRAIN: Kind = Kind { number: 3,
        a: Channel { name: "frequency", base: 1_632_500, step: 2_750, wave: 2_400, trend: -120, noise: 300 },
        b: Channel { name: "temp", base: 9_200, step: 45, wave: 1_500, trend: -70, noise: 50 } };
    /// 渗压计, piezometer: kPa, °C.
    pub(super) static PIEZO: Kind = Kind { number: 4,
        a: Channel { name: "pressure", base: 86_400, step: 1_310, wave: 650, trend: 45, noise: 80 },
        b: Channel { name: "temp", base: 11_800, step: 20, wave: 300, trend: 0, noise: 30 } };
}

/// Level 01 is the reference point, and comes last in the request.
static DEVICES: [Device; 18] = [
    device(&BRIDGE, 0, "静力水准仪02", &kind::LEVEL, 1800, 15),
    device(&BRIDGE, 1, "静力水准仪03", &kind::LEVEL, 1800, 20),
    device(&BRIDGE, 2, "静力水准仪04", &kind::LEVEL, 1800, 25),
    device(&BRIDGE, 3, "静力水准仪05", &kind::LEVEL, 3600, 28),
    device(&BRIDGE, 4, "静力水准仪06", &kind::LEVEL, 1800, 30),
    device(&BRIDGE, 5, "静力水准仪07", &kind::LEVEL, 1200, 35),
    device(&BRIDGE, 6, "静力水准仪01", &kind::LEVEL, 1200, 5),
    device(&DAM, 0, "测斜仪01", &kind::TILT, 3600, 120),
    device(&DAM, 1, "测斜仪02", &kind::TILT, 3600, 130),
    device(&DAM, 2, "测斜仪03", &kind::TILT, 3600, 140),
    device(&DAM, 3, "应变计01", &kind::STRAIN, 1800, 300),
    device(&DAM, 4, "应变计02", &kind::STRAIN, 1800, 305),
    device(&DAM, 5, "应变计03", &kind::STRAIN, 1200, 310),
    device(&DAM, 6, "应变计04", &kind::STRAIN, 600, 315),
    device(&DAM, 7, "渗压计01", &kind::PIEZO, 3600, 600),
    device(&DAM, 8, "渗压计02", &kind::PIEZO, 3600, 610),
    device(&DAM, 9, "渗压计03", &kind::PIEZO, 7200, 620),
    device(&DAM, 10, "渗压计04", &kind::PIEZO, 14400, 630),
];

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const fn device(
    request: &SampleRequest,
    index: usize,
    name: &'static str,
    kind: &'static Kind,
    interval: i64,
    phase: i64,
) -> Device {
    Device { id: request.devices[index], thing_id: request.thing_id, name, kind, interval, phase }
}

/// All devices, in the order of the contract: the bridge's, then the dam's.
#[must_use]
pub fn devices() -> &'static [Device] {
    &DEVICES
}

/// All readings, by device and time, computed lazily.
pub fn readings() -> impl Iterator<Item = Reading> {
    (1..).zip(&DEVICES).flat_map(|(number, device)| {
        (0..)
            .map(|k| (k, device.phase + k * device.interval))
            .take_while(|(_, second)| *second < SPAN)
            .map(move |(k, second)| device.reading(number, k, second))
    })
}

impl Device {
    /// Reading `k` (0, 1, 2 …) of the device with this number (1, 2, 3 …), taken `second` seconds
    /// after `START`.
    fn reading(&self, number: i64, k: i64, second: i64) -> Reading {
        let id = number * 100_000 + k + 1;
        let time = DateTime::UNIX_EPOCH + TimeDelta::seconds(START + second);
        let Kind { number: kind, a, b } = self.kind;
        let doc = format!(
            concat!(
                r#"{{"userId":"{user}","thingId":"{thing}","dimensionId":"{dimension}","dimCapId":"{dim_cap}","#,
                r#""capId":"{cap}","deviceId":"{device}","scheduleId":"{schedule}","taskId":"{task}","#,
                r#""jobId":{job},"jobRepeatId":{repeat},"triggerTime":"{trigger}+08:00","#,
                r#""realTime":"{trigger}.{real_nanos:09}+08:00","finishTime":"{finish}.{finish_nanos:09}+08:00","#,
                r#""seq":0,"released":false,"data":{{"type":1,"data":{{"{a}":{a_value},"{b}":{b_value}}},"#,
                r#""result":{{"code":0,"msg":"","detail":null,"errTimes":0,"dropped":false}}}}}}"#,
            ),
            user = iota_id(1, 1),
            thing = self.thing_id,
            dimension = iota_id(2, *kind),
            dim_cap = iota_id(3, *kind),
            cap = iota_id(4, *kind),
            device = self.id,
            schedule = iota_id(5, number),
            task = iota_id(6, *kind),
            job = number,
            repeat = k + 1,
            trigger = local(time),
            real_nanos = noise(id * 4 + 2) % 20_000_000,
            finish = local(time + TimeDelta::seconds(1)),
            finish_nanos = noise(id * 4 + 3) % 1_000_000_000,
            a = a.name,
            a_value = decimal(a.value(number, second, noise(id * 4))),
            b = b.name,
            b_value = decimal(b.value(number, second, noise(id * 4 + 1))),
        );
        Reading { id, device_id: self.id, time, doc }
    }
}

impl Channel {
    fn value(&self, number: i64, second: i64, noise: i64) -> i64 {
        // The day's warmest moment lies between 11:30 and 14:20, by device.
        let wave = wave(second + 55_800 + number * 600) * self.wave / 1000;
        let trend = self.trend * second / DAY;
        self.base + self.step * number + wave + trend + noise % (2 * self.noise + 1) - self.noise
    }
}

/// An approximate sine with a period of a day, from -1000 to 1000, made of two parabolas.
fn wave(second: i64) -> i64 {
    let half = DAY / 2;
    let (sign, x) = if second % DAY < half { (1, second % half) } else { (-1, second % half) };
    sign * (4000 * x * (half - x) / (half * half))
}

/// 0 to 2³¹ - 2, without a visible pattern: a linear step, then a square.
fn noise(key: i64) -> i64 {
    let x = (key * 1_103_515_245 + 12_345) % 2_147_483_648;
    x * x % 2_147_483_647
}

/// Thousandths as a JSON number with three decimals.
fn decimal(thousandths: i64) -> String {
    let sign = if thousandths < 0 { "-" } else { "" };
    format!("{sign}{}.{:03}", thousandths.abs() / 1000, thousandths.abs() % 1000)
}

/// Local date and time to the second, without the offset.
fn local(time: DateTime<Utc>) -> impl std::fmt::Display {
    (time + UTC_OFFSET).format("%Y-%m-%dT%H:%M:%S")
}

/// A made-up id of an IoTA user, dimension, capability, schedule or task.
fn iota_id(table: i64, number: i64) -> String {
    format!("{table:08}-107a-4000-8000-{number:012}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of rows in the request's range, for each of its devices.
    fn counts(request: &SampleRequest) -> Vec<usize> {
        let time = |text| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%z").unwrap().to_utc();
        let range = time(request.from)..=time(request.to);
        let rows: Vec<_> = readings().filter(|row| range.contains(&row.time)).collect();
        request.devices.iter().map(|id| rows.iter().filter(|row| row.device_id == *id).count()).collect()
    }

    #[test]
    fn the_devices_are_those_of_the_requests_in_their_order() {
        let expected = BRIDGE.devices.iter().map(|id| (BRIDGE.thing_id, *id));
        let expected = expected.chain(DAM.devices.iter().map(|id| (DAM.thing_id, *id)));
        assert!(devices().iter().map(|device| (device.thing_id, device.id)).eq(expected));
        assert_eq!(devices().len(), 18);
        assert!(devices().iter().any(|device| device.id == LEVEL_06 && device.name == "静力水准仪06"));
    }

    #[test]
    fn the_requests_find_as_many_rows_as_the_demo_promises() {
        assert_eq!(BRIDGE.devices.iter().zip(counts(&BRIDGE)).find(|(id, _)| **id == LEVEL_06).unwrap().1, 178);
        assert_eq!(counts(&BRIDGE), [178, 178, 178, 89, 178, 268, 268]);
        assert_eq!(counts(&DAM), [235, 235, 235, 471, 471, 707, 1413, 236, 236, 118, 59]);
    }

    #[test]
    fn ids_ascend_and_so_do_the_times_of_a_device() {
        let rows: Vec<_> = readings().collect();
        assert_eq!(rows.len(), 8910);
        assert!(rows.is_sorted_by(|a, b| a.id < b.id && (a.device_id != b.device_id || a.time < b.time)));
    }

    #[test]
    fn a_document_is_as_et_expects_it() {
        let row = readings().find(|row| row.device_id == LEVEL_06).unwrap();
        assert_eq!((row.id, row.time.to_rfc3339()), (500_001, "2019-01-10T16:00:30+00:00".to_owned()));
        let start = r#"{"userId":"00000001-107a-4000-8000-000000000001","thingId":"9d9d14b3-cf77-4cba-934b-faeaf2d153ba","#;
        let end = concat!(
            r#""jobId":5,"jobRepeatId":1,"triggerTime":"2019-01-11T00:00:30+08:00","#,
            r#""realTime":"2019-01-11T00:00:30.001031406+08:00","finishTime":"2019-01-11T00:00:31.547107943+08:00","#,
            r#""seq":0,"released":false,"data":{"type":1,"data":{"pressure":12.534,"temp":-0.973},"#,
            r#""result":{"code":0,"msg":"","detail":null,"errTimes":0,"dropped":false}}}"#,
        );
        assert!(row.doc.starts_with(start) && row.doc.ends_with(end), "{}", row.doc);
    }
}
