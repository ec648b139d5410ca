-- The sample of an IoTA store: two things, eighteen devices, eleven days of readings (2019-01-11 to 2019-01-21, +08:00).
--
-- The twin of src/iota/sample.rs: the same rows, digit for digit. Hence integer arithmetic only (values are
-- thousandths; `/` truncates toward zero in both languages). Whoever changes a number here changes it there.
--
-- For PostgreSQL 15 and newer. To be run once, on an empty database, by a role that may create roles: by the Docker
-- image (from /docker-entrypoint-initdb.d), or by hand:
--
--     createdb iota
--     psql -d iota -v reader_password='a better one' -f 10-iota-sample.sql
--
-- It is one transaction: a run that fails, a second one for example, changes nothing.

\set ON_ERROR_STOP on
\encoding UTF8

-- The password of data_patch_reader: the psql variable, else the environment (the image hands it on), else this one,
-- which is for trying things out.
\if :{?reader_password}
\else
    \getenv reader_password IOTA_READER_PASSWORD
\endif
\if :{?reader_password}
\else
    \set reader_password data_patch
\endif

BEGIN;

-- IoTA's own tables, as far as data-patch reads them.

CREATE TABLE "Device" (
    id        uuid PRIMARY KEY,
    name      text,
    "thingId" uuid NOT NULL
);

CREATE TABLE raw_data (
    id            bigint      PRIMARY KEY,
    "deviceId"    uuid        NOT NULL REFERENCES "Device" (id),
    "triggerTime" timestamptz NOT NULL,
    doc           jsonb       NOT NULL
);

-- What the sample is made of. Temporary, gone with the commit.

-- A kind of instrument measures two quantities. Each is a daily wave on a slow trend, with a little noise: `base`, `step`
-- (added as often as the device's number says, so that no two devices measure the same), `wave` (its height), `trend`
-- (change in a day) and `noise`, all in thousandths of the unit.
CREATE TEMPORARY TABLE kind ON COMMIT DROP AS
SELECT * FROM (VALUES
    -- hydrostatic level: kPa, °C
    (1, 'pressure',    12500,   37,  180,    6,  15, 'temp',  2300, 45, 3800, -140, 60),
    -- inclinometer: degrees about two axes
    (2, 'x',             420,   11,   35,    3,   4, 'y',     -180,  7,   25,   -2,  4),
    -- vibrating-wire strain gauge: Hz, °C
    (3, 'frequency', 1632500, 2750, 2400, -120, 300, 'temp',  9200, 45, 1500,  -70, 50),
    -- piezometer: kPa, °C
    (4, 'pressure',    86400, 1310,  650,   45,  80, 'temp', 11800, 20,  300,    0, 30)
) AS kind (number, a, a_base, a_step, a_wave, a_trend, a_noise, b, b_base, b_step, b_wave, b_trend, b_noise);

-- A reading every so many seconds, the first one `phase` seconds after the start. The order is the service contract's.
CREATE TEMPORARY TABLE sample ON COMMIT DROP AS
SELECT number::bigint, id::uuid, thing::uuid, name, kind, every, phase FROM (VALUES
    -- A bridge. Level 01 is the reference point, and comes last.
    ( 1, '0fc608c2-5d7c-45a0-a5f7-c423a08fa0d0', '9d9d14b3-cf77-4cba-934b-faeaf2d153ba', '静力水准仪02', 1, 1800, 15),
    ( 2, 'e2d26fce-7362-4036-925b-5125453b2d4e', '9d9d14b3-cf77-4cba-934b-faeaf2d153ba', '静力水准仪03', 1, 1800, 20),
    ( 3, 'f586ebba-5f93-4634-9e29-f329183cf61e', '9d9d14b3-cf77-4cba-934b-faeaf2d153ba', '静力水准仪04', 1, 1800, 25),
    ( 4, '67bbd235-7357-41b7-8e37-ff9ccf6cf9eb', '9d9d14b3-cf77-4cba-934b-faeaf2d153ba', '静力水准仪05', 1, 3600, 28),
    ( 5, 'b34299aa-625e-4404-a580-fde1d7cbc3e8', '9d9d14b3-cf77-4cba-934b-faeaf2d153ba', '静力水准仪06', 1, 1800, 30),
    ( 6, 'bfefe2f7-ff9c-40dc-be66-a3c6e0032017', '9d9d14b3-cf77-4cba-934b-faeaf2d153ba', '静力水准仪07', 1, 1200, 35),
    ( 7, '08d2cb15-33c0-42bc-9ff8-523bdb157afd', '9d9d14b3-cf77-4cba-934b-faeaf2d153ba', '静力水准仪01', 1, 1200, 5),
    -- A dam.
    ( 8, '6ba6c6a1-f96d-4e33-bc0c-4b40411f3a88', '7dea63f9-d15f-4ef2-8d70-d8e256d637a0', '测斜仪01', 2, 3600, 120),
    ( 9, 'f63f4033-01f4-4de1-ac1d-661164ecbf70', '7dea63f9-d15f-4ef2-8d70-d8e256d637a0', '测斜仪02', 2, 3600, 130),
    (10, '46449009-b7c6-4265-b07a-4e033be83624', '7dea63f9-d15f-4ef2-8d70-d8e256d637a0', '测斜仪03', 2, 3600, 140),
    (11, '9abdb3de-2ce3-49eb-8f6f-c827e9e89d72', '7dea63f9-d15f-4ef2-8d70-d8e256d637a0', '应变计01', 3, 1800, 300),
    (12, '7b9aa5e4-a3cd-418b-9219-1302ffee2750', '7dea63f9-d15f-4ef2-8d70-d8e256d637a0', '应变计02', 3, 1800, 305),
    (13, '6b009f76-b356-4365-8c1c-b2e4608a71ae', '7dea63f9-d15f-4ef2-8d70-d8e256d637a0', '应变计03', 3, 1200, 310),
    (14, '46a95110-ec3f-4f13-9a21-6ef4bb83dcc4', '7dea63f9-d15f-4ef2-8d70-d8e256d637a0', '应变计04', 3, 600, 315),
    (15, '76cdbad9-15e4-488e-8c81-3c8fda22d01e', '7dea63f9-d15f-4ef2-8d70-d8e256d637a0', '渗压计01', 4, 3600, 600),
    (16, '2cf24193-4111-43c1-b57e-a22b80fe89b6', '7dea63f9-d15f-4ef2-8d70-d8e256d637a0', '渗压计02', 4, 3600, 610),
    (17, 'ccbb2ec8-944c-456c-84af-41cc5417d17a', '7dea63f9-d15f-4ef2-8d70-d8e256d637a0', '渗压计03', 4, 7200, 620),
    (18, 'b5c7cc36-1a86-4a37-836c-e5b00cc892b3', '7dea63f9-d15f-4ef2-8d70-d8e256d637a0', '渗压计04', 4, 14400, 630)
) AS sample (number, id, thing, name, kind, every, phase);

-- 0 to 2^31 - 2, without a visible pattern: a linear step, then a square, so that neighbours differ.
CREATE FUNCTION pg_temp.noise(key bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT x * x % 2147483647 FROM (SELECT (key * 1103515245 + 12345) % 2147483648 AS x) AS step
$$;

-- A period of a day (86400 seconds), from -1000 to 1000: two parabolas, which is as near to a sine as a sample needs.
CREATE FUNCTION pg_temp.wave(second bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN second % 86400 < 43200 THEN 1 ELSE -1 END * (4000 * x * (43200 - x) / (43200::bigint * 43200))
    FROM (SELECT second % 43200 AS x) AS half
$$;

-- A quantity, as a number with three decimals. The day's warmest moment lies between 11:30 and 14:20, by device.
CREATE FUNCTION pg_temp.value(number bigint, second bigint, noise bigint,
                              base bigint, step bigint, wave bigint, trend bigint, breadth bigint)
RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
    SELECT 0.001 * (base + step * number
                    + pg_temp.wave(second + 55800 + number * 600) * wave / 1000
                    + trend * second / 86400
                    + noise % (2 * breadth + 1) - breadth)
$$;

-- Local date and time, with nanoseconds (PostgreSQL's own times end at microseconds).
CREATE FUNCTION pg_temp.stamp(at timestamptz, nanos bigint) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT to_char(at AT TIME ZONE INTERVAL '8 hours', 'YYYY-MM-DD"T"HH24:MI:SS') || '.' || lpad(nanos::text, 9, '0') || '+08:00'
$$;

-- Stands for one of IoTA's own ids: those of users, dimensions, capabilities, schedules, tasks.
CREATE FUNCTION pg_temp.iota_id(of bigint, number bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT lpad(of::text, 8, '0') || '-107a-4000-8000-' || lpad(number::text, 12, '0')
$$;

INSERT INTO "Device" (id, name, "thingId")
SELECT id, name, thing FROM sample ORDER BY number;

-- A row's id tells its device and its number there: 500123 is the 123rd reading of device 5.
INSERT INTO raw_data (id, "deviceId", "triggerTime", doc)
SELECT row.id, device.id, row.at, jsonb_build_object(
    'userId', pg_temp.iota_id(1, 1),
    'thingId', device.thing,
    'dimensionId', pg_temp.iota_id(2, kind.number),
    'dimCapId', pg_temp.iota_id(3, kind.number),
    'capId', pg_temp.iota_id(4, kind.number),
    'deviceId', device.id,
    'scheduleId', pg_temp.iota_id(5, device.number),
    'taskId', pg_temp.iota_id(6, kind.number),
    'jobId', device.number,
    'jobRepeatId', k + 1,
    'triggerTime', to_char(row.at AT TIME ZONE INTERVAL '8 hours', 'YYYY-MM-DD"T"HH24:MI:SS"+08:00"'),
    'realTime', pg_temp.stamp(row.at, pg_temp.noise(row.id * 4 + 2) % 20000000),
    'finishTime', pg_temp.stamp(row.at + INTERVAL '1 second', pg_temp.noise(row.id * 4 + 3) % 1000000000),
    'seq', 0,
    'released', false,
    'data', jsonb_build_object(
        'type', 1,
        'data', jsonb_build_object(
            a, pg_temp.value(device.number, second, pg_temp.noise(row.id * 4), a_base, a_step, a_wave, a_trend, a_noise),
            b, pg_temp.value(device.number, second, pg_temp.noise(row.id * 4 + 1), b_base, b_step, b_wave, b_trend, b_noise)),
        'result', jsonb_build_object('code', 0, 'msg', '', 'detail', null, 'errTimes', 0, 'dropped', false)))
FROM sample AS device
JOIN kind ON kind.number = device.kind
-- 950400 seconds are the eleven days; the last one counts to its end.
CROSS JOIN LATERAL generate_series(0, (950400 - 1 - phase) / every) AS k
CROSS JOIN LATERAL (SELECT phase + k * every AS second) AS since
CROSS JOIN LATERAL (
    SELECT device.number * 100000 + k + 1 AS id,
           TIMESTAMPTZ '2019-01-11T00:00:00+08:00' + second * INTERVAL '1 second' AS at
) AS row
ORDER BY row.id;

-- What data-patch pages by: time and key within a device. (After the rows: quicker.)
CREATE INDEX raw_data_device_time ON raw_data ("deviceId", "triggerTime", id);

-- The service only ever reads, so it gets a role that can do nothing else. Roles belong to the whole server: one that is
-- there already keeps its password.
SELECT format('CREATE ROLE data_patch_reader LOGIN PASSWORD %L', :'reader_password')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'data_patch_reader')
\gexec
ALTER ROLE data_patch_reader SET default_transaction_read_only = on;
GRANT CONNECT ON DATABASE :"DBNAME" TO data_patch_reader;
GRANT USAGE ON SCHEMA public TO data_patch_reader;
GRANT SELECT ON "Device", raw_data TO data_patch_reader;

COMMIT;

-- Without statistics the first queries would be planned blindly.
ANALYZE "Device", raw_data;
