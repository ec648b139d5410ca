-- What the HTTP API, the commands and the page show and change.

-- Why the readings are published again.
ALTER TABLE task ADD COLUMN reason TEXT;
-- The most rows a second, for the whole task. NULL: no limit.
ALTER TABLE task ADD COLUMN rate INTEGER;
-- Since when its jobs wait to be resumed (milliseconds since 1970).
ALTER TABLE task ADD COLUMN paused_at INTEGER;
-- The task whose devices this one tries again. It may have been removed since.
ALTER TABLE task ADD COLUMN retry_of TEXT;
-- Who asked: the name of the token, and the client's address. NULL: a task of an older version.
ALTER TABLE task ADD COLUMN requester TEXT;
ALTER TABLE task ADD COLUMN requester_address TEXT;
-- The totals of a finished task, as JSON, so that a list need not add up its jobs. NULL: of an older version.
ALTER TABLE task ADD COLUMN totals TEXT;

-- Rows a second of a running job, at its last checkpoint.
ALTER TABLE job ADD COLUMN rows_per_second REAL;

-- The unfinished tasks whose running jobs have to be told something: nearly always few.
DROP INDEX task_cancelling;
CREATE INDEX task_steered ON task (id)
    WHERE finished_at IS NULL AND (cancel_requested_at IS NOT NULL OR paused_at IS NOT NULL OR rate IS NOT NULL);
-- Lists are read from the newest task, by id. These are for their filters, and for finding tasks that overlap.
CREATE INDEX task_state ON task (state, id);
CREATE INDEX task_thing ON task (thing_id, id);
