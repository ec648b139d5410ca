-- The queue: what was asked for, what is being done about it, and what was said of it.
--
-- Times are milliseconds since 1970 (UTC), ids are UUIDs as lower-case text, so that the same tables can stand in PostgreSQL.

-- A task is one request. It is written together with all its jobs before the client hears `task created.`.
CREATE TABLE task (
    id          TEXT    NOT NULL PRIMARY KEY,
    -- The client's own name for the request: the same again creates nothing.
    request_id  TEXT    UNIQUE,
    thing_id    TEXT    NOT NULL,
    topic       TEXT    NOT NULL,
    -- Both ends included; RFC 3339 with up to nine decimals, as exact as the client was.
    range_from  TEXT    NOT NULL,
    range_to    TEXT    NOT NULL,
    -- Follows from the jobs' states; stored because it is asked for on every attach.
    state       TEXT    NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    -- Fair shares: the task that was served longest ago has the lowest turn, and is served next.
    turn        INTEGER NOT NULL,
    -- The number of the last line of its log.
    last_seq    INTEGER NOT NULL DEFAULT 0,
    created_at  INTEGER NOT NULL,
    -- NULL while there is work left.
    finished_at INTEGER
) STRICT;

-- The tasks with work left, in the order in which they are served.
CREATE INDEX task_open ON task (turn) WHERE finished_at IS NULL;
-- The tasks that retention looks for.
CREATE INDEX task_finished ON task (finished_at) WHERE finished_at IS NOT NULL;

-- A job is one device of a task, and the unit that is leased.
CREATE TABLE job (
    id          INTEGER NOT NULL PRIMARY KEY,
    task_id     TEXT    NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    -- The device's place in the request.
    ordinal     INTEGER NOT NULL,
    device_id   TEXT    NOT NULL,
    device_name TEXT,
    state       TEXT    NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    -- Grows with each claim. A worker may write only while the attempt is its own.
    attempt     INTEGER NOT NULL DEFAULT 0,
    -- The service that holds the lease, or held the last one.
    owner       TEXT,
    -- When it may be claimed: a queued job after its backoff, a running one after its lease. NULL when it has ended.
    due_at      INTEGER,
    -- Outages, and expired leases, in a row with no row published in between.
    outages     INTEGER NOT NULL DEFAULT 0,
    crashes     INTEGER NOT NULL DEFAULT 0,
    -- Rows counted at the start; NULL until then.
    total       INTEGER,
    -- Rows up to the cursor that Kafka acknowledged, and that were held back.
    published   INTEGER NOT NULL DEFAULT 0,
    held        INTEGER NOT NULL DEFAULT 0,
    -- The cursor: time (microseconds since 1970) and key of the last row that is done with.
    cursor_time INTEGER,
    cursor_key  TEXT,
    -- Why it failed.
    reason      TEXT,
    UNIQUE (task_id, ordinal),
    CHECK ((due_at IS NULL) = (state IN ('succeeded', 'failed', 'cancelled')))
) STRICT;

-- What can be claimed from a task, and whether it has work left.
CREATE INDEX job_due ON job (task_id, due_at, ordinal) WHERE due_at IS NOT NULL;

-- The log of a task: numbered without a gap, written with the change that it tells of.
CREATE TABLE event (
    task_id TEXT    NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    seq     INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    -- 0: sent with "res":"error".
    ok      INTEGER NOT NULL,
    message TEXT    NOT NULL,
    -- On the last line: how the task ended.
    ends    TEXT,
    PRIMARY KEY (task_id, seq)
) STRICT, WITHOUT ROWID;

-- Rows that were read and held back. The primary key makes a rerun write the same row once.
CREATE TABLE quarantine (
    task_id   TEXT    NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    device_id TEXT    NOT NULL,
    -- Microseconds since 1970.
    row_time  INTEGER NOT NULL,
    row_key   TEXT    NOT NULL,
    reason    TEXT    NOT NULL,
    held_at   INTEGER NOT NULL,
    PRIMARY KEY (task_id, device_id, row_time, row_key)
) STRICT, WITHOUT ROWID;
