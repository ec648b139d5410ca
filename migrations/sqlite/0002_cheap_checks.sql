-- The same tables with checks that cost less. SQLite makes a table in memory for each list of more than two values after IN,
-- anew in every statement that writes a row: that was a sixth of the writer's time.
--
-- A table's checks can't be changed, so each is made again and filled. Children go before their parent: dropping a task's row
-- would take its jobs with it.

CREATE TABLE new_task (
    id          TEXT    NOT NULL PRIMARY KEY,
    -- The client's own name for the request: the same again creates nothing.
    request_id  TEXT,
    thing_id    TEXT    NOT NULL,
    topic       TEXT    NOT NULL,
    -- Both ends included; RFC 3339 with up to nine decimals, as exact as the client was.
    range_from  TEXT    NOT NULL,
    range_to    TEXT    NOT NULL,
    -- Follows from the jobs' states; stored because it is asked for on every attach.
    state       TEXT    NOT NULL
        CHECK (state = 'queued' OR state = 'running' OR state = 'succeeded' OR state = 'failed' OR state = 'cancelled'),
    -- Fair shares: the task that was served longest ago has the lowest turn, and is served next.
    turn        INTEGER NOT NULL,
    -- The number of the last line of its log.
    last_seq    INTEGER NOT NULL DEFAULT 0,
    created_at  INTEGER NOT NULL,
    -- NULL while there is work left.
    finished_at INTEGER
) STRICT;

CREATE TABLE new_job (
    id          INTEGER NOT NULL PRIMARY KEY,
    task_id     TEXT    NOT NULL REFERENCES new_task (id) ON DELETE CASCADE,
    -- The device's place in the request.
    ordinal     INTEGER NOT NULL,
    device_id   TEXT    NOT NULL,
    device_name TEXT,
    state       TEXT    NOT NULL
        CHECK (state = 'queued' OR state = 'running' OR state = 'succeeded' OR state = 'failed' OR state = 'cancelled'),
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
    CHECK ((due_at IS NOT NULL) = (state = 'queued' OR state = 'running'))
) STRICT;

CREATE TABLE new_event (
    task_id TEXT    NOT NULL REFERENCES new_task (id) ON DELETE CASCADE,
    seq     INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    -- 0: sent with "res":"error".
    ok      INTEGER NOT NULL,
    message TEXT    NOT NULL,
    -- On the last line: how the task ended.
    ends    TEXT,
    PRIMARY KEY (task_id, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE new_quarantine (
    task_id   TEXT    NOT NULL REFERENCES new_task (id) ON DELETE CASCADE,
    device_id TEXT    NOT NULL,
    -- Microseconds since 1970.
    row_time  INTEGER NOT NULL,
    row_key   TEXT    NOT NULL,
    reason    TEXT    NOT NULL,
    held_at   INTEGER NOT NULL,
    PRIMARY KEY (task_id, device_id, row_time, row_key)
) STRICT, WITHOUT ROWID;

INSERT INTO new_task
SELECT id, request_id, thing_id, topic, range_from, range_to, state, turn, last_seq, created_at, finished_at FROM task;
INSERT INTO new_job
SELECT id, task_id, ordinal, device_id, device_name, state, attempt, owner, due_at, outages, crashes, total, published, held,
       cursor_time, cursor_key, reason
FROM job;
INSERT INTO new_event SELECT task_id, seq, at, ok, message, ends FROM event;
INSERT INTO new_quarantine SELECT task_id, device_id, row_time, row_key, reason, held_at FROM quarantine;

DROP TABLE quarantine;
DROP TABLE event;
DROP TABLE job;
DROP TABLE task;

-- The references follow.
ALTER TABLE new_task RENAME TO task;
ALTER TABLE new_job RENAME TO job;
ALTER TABLE new_event RENAME TO event;
ALTER TABLE new_quarantine RENAME TO quarantine;

-- Most requests bear no name, and need no entry.
CREATE UNIQUE INDEX task_request ON task (request_id) WHERE request_id IS NOT NULL;
-- The tasks with work left, in the order in which they are served.
CREATE INDEX task_open ON task (turn) WHERE finished_at IS NULL;
-- The tasks that retention looks for.
CREATE INDEX task_finished ON task (finished_at) WHERE finished_at IS NOT NULL;
-- What can be claimed from a task, and whether it has work left.
CREATE INDEX job_due ON job (task_id, due_at, ordinal) WHERE due_at IS NOT NULL;
