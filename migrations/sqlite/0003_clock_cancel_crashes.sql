-- What the queue must remember to survive a moved clock, to end a cancelled task exactly, and to blame the right job for a
-- crash.

-- The steady clock of `job.due_at`: the machine's monotonic clock plus this offset, so that no step of the wall clock shortens
-- or lengthens a wait or a lease. A monotonic clock begins anew at each boot, and so does the offset.
CREATE TABLE clock (
    id        INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    boot_id   TEXT    NOT NULL,
    offset_ms INTEGER NOT NULL
) STRICT;

-- When somebody asked to cancel the task (milliseconds since 1970). Its running jobs then stop and report; the task ends with
-- the last of them.
ALTER TABLE task ADD COLUMN cancel_requested_at INTEGER;

-- Crashes of an instance while this job and others were in progress there. `crashes` counts those for which this job is likely
-- the cause.
ALTER TABLE job ADD COLUMN suspected INTEGER NOT NULL DEFAULT 0;
-- 1 while the job is known to stand still, waiting for the store or Kafka: a crash at that moment says nothing about the job.
ALTER TABLE job ADD COLUMN waiting INTEGER NOT NULL DEFAULT 0;
-- Rows that were on the wire to Kafka, with no answer, when the job was cancelled.
ALTER TABLE job ADD COLUMN unanswered INTEGER NOT NULL DEFAULT 0;

-- Both are nearly always empty, and asked for often.
CREATE INDEX task_cancelling ON task (id) WHERE cancel_requested_at IS NOT NULL AND finished_at IS NULL;
CREATE INDEX job_suspect ON job (task_id, due_at, ordinal) WHERE suspected > 1 AND due_at IS NOT NULL;
