-- The queue on PostgreSQL, for many instances. The tables have what those of SQLite have (migrations/sqlite/); what differs says why.
--
-- Times are milliseconds since 1970 (UTC) by the clock of this server, so that the clocks of the instances do not matter.

CREATE TABLE task (
    id                  UUID   NOT NULL PRIMARY KEY,
    -- The client's own name for the request: the same again creates nothing.
    request_id          TEXT   UNIQUE,
    thing_id            UUID   NOT NULL,
    topic               TEXT   NOT NULL,
    -- Both ends included; RFC 3339 with nine decimals, so that they compare as texts and are as exact as the client was.
    range_from          TEXT   COLLATE "C" NOT NULL,
    range_to            TEXT   COLLATE "C" NOT NULL,
    state               TEXT   NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    -- Fair shares: the task that was served longest ago has the lowest number, and is served next.
    served_seq          BIGINT NOT NULL DEFAULT 0,
    -- The number of the last entry of its log.
    last_seq            BIGINT NOT NULL DEFAULT 0,
    created_at          BIGINT NOT NULL,
    -- NULL while there is work left.
    finished_at         BIGINT,
    cancel_requested_at BIGINT,
    -- Since when its jobs wait to be resumed.
    paused_at           BIGINT,
    -- The most rows a second, for the whole task. NULL: no limit.
    rate                BIGINT,
    -- Why the readings are published again.
    reason              TEXT,
    -- The task whose devices this one tries again. It may have been removed since.
    retry_of            UUID,
    -- Who asked: the name of the token, and the client's address.
    requester           TEXT,
    requester_address   TEXT,
    -- The totals of a finished task, as JSON, so that a list need not add up its jobs.
    totals              TEXT
) WITH (fillfactor = 70);

-- The tasks with work left, in the order in which they are served.
CREATE INDEX task_open ON task (served_seq) WHERE finished_at IS NULL;
-- The tasks that retention looks for.
CREATE INDEX task_finished ON task (finished_at) WHERE finished_at IS NOT NULL;
-- The unfinished tasks whose running jobs have to be told something: nearly always few.
CREATE INDEX task_steered ON task (id)
    WHERE finished_at IS NULL AND (cancel_requested_at IS NOT NULL OR paused_at IS NOT NULL OR rate IS NOT NULL);
-- Lists are read from the newest task, by id. These are for their filters.
CREATE INDEX task_state ON task (state, id);
CREATE INDEX task_thing ON task (thing_id, id);
CREATE INDEX task_topic ON task (topic, id);
CREATE INDEX task_reason ON task (id) WHERE reason IS NOT NULL;

-- A job is one device of a task, and the unit that is leased.
--
-- A checkpoint changes no column of an index, so that PostgreSQL writes the new row beside the old one and no index entry (HOT).
-- That is why the end of a lease has a column of its own.
CREATE TABLE job (
    id              BIGINT  NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id         UUID    NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    -- The device's place in the request.
    ordinal         INTEGER NOT NULL,
    device_id       UUID    NOT NULL,
    device_name     TEXT,
    state           TEXT    NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    -- Grows with each claim. A worker may write only while the attempt is its own.
    attempt         BIGINT  NOT NULL DEFAULT 0,
    -- The instance that holds the lease, or held the last one.
    owner           TEXT,
    -- When it may be claimed: a queued job after its backoff, a running one whose lease was ended at once. NULL while it is leased,
    -- and when it has ended.
    due_at          BIGINT,
    -- The end of the lease of a running job.
    lease_until     BIGINT,
    -- Outages in a row with no row published in between.
    outages         BIGINT  NOT NULL DEFAULT 0,
    -- Crashes without progress of which it is the likely cause, and those at which it was in progress with others.
    crashes         BIGINT  NOT NULL DEFAULT 0,
    suspected       BIGINT  NOT NULL DEFAULT 0,
    -- It waits for the store or Kafka: a crash is not counted against it.
    waiting         BOOLEAN NOT NULL DEFAULT FALSE,
    -- Rows counted at the start; NULL until then.
    total           BIGINT,
    -- Rows up to the checkpoint that Kafka acknowledged, and that were quarantined.
    published       BIGINT  NOT NULL DEFAULT 0,
    quarantined     BIGINT  NOT NULL DEFAULT 0,
    -- The checkpoint: time (microseconds since 1970) and key of the last row that is done with, and the layout that they mean
    -- something in ("timestamptz/bigint").
    cursor_time     BIGINT,
    cursor_key      TEXT,
    cursor_layout   TEXT,
    -- Rows that were on the wire to Kafka, with no answer, when the job was cancelled.
    unanswered      BIGINT  NOT NULL DEFAULT 0,
    -- Rows a second of a running job, at its last checkpoint.
    rows_per_second DOUBLE PRECISION,
    -- What a receipt proves, as JSON (crates/protocol/src/task/delivered.rs).
    delivered       TEXT,
    -- Why it failed.
    reason          TEXT,
    UNIQUE (task_id, ordinal),
    CHECK (CASE state
        WHEN 'queued' THEN due_at IS NOT NULL AND lease_until IS NULL
        WHEN 'running' THEN (due_at IS NULL) <> (lease_until IS NULL)
        ELSE due_at IS NULL AND lease_until IS NULL
    END)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);

-- What can be claimed from a task.
CREATE INDEX job_due ON job (task_id, due_at, ordinal) WHERE due_at IS NOT NULL;
-- What is leased: a few hundred jobs. `lease_until` is not part of it, see above.
CREATE INDEX job_running ON job (task_id, owner) WHERE state = 'running';
CREATE INDEX job_suspect ON job (task_id, due_at, ordinal) WHERE suspected > 1 AND state IN ('queued', 'running');

-- The log of a task: numbered without a gap, written with the change that it tells of.
CREATE TABLE event (
    task_id     UUID    NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    seq         BIGINT  NOT NULL,
    at          BIGINT  NOT NULL,
    -- FALSE: sent with "res":"error".
    ok          BOOLEAN NOT NULL,
    -- What happened, and its body as JSON.
    kind        TEXT    NOT NULL,
    body        TEXT    NOT NULL,
    -- On the last entry: how the task ended.
    final_state TEXT,
    PRIMARY KEY (task_id, seq)
);

-- Rows that were read and quarantined. The primary key makes a rerun write the same row once.
CREATE TABLE quarantine (
    task_id        UUID   NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    device_id      UUID   NOT NULL,
    -- Microseconds since 1970.
    row_time       BIGINT NOT NULL,
    row_key        TEXT   COLLATE "C" NOT NULL,
    reason         TEXT   NOT NULL,
    quarantined_at BIGINT NOT NULL,
    PRIMARY KEY (task_id, device_id, row_time, row_key)
);

-- The instances that work on the queue. Each renews its row every second; whose row is old is dead.
CREATE TABLE instance (
    id          TEXT    NOT NULL PRIMARY KEY,
    -- Where it runs, and which version it is.
    host        TEXT    NOT NULL,
    pid         BIGINT  NOT NULL,
    version     TEXT    NOT NULL,
    started_at  BIGINT  NOT NULL,
    seen_at     BIGINT  NOT NULL,
    -- It hands its jobs back, and claims no others.
    is_draining BOOLEAN NOT NULL DEFAULT FALSE
);
