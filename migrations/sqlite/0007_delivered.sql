-- What a receipt proves: where in the topic the published rows of a job are, and their checksum, as JSON
-- (crates/protocol/src/task/delivered.rs). NULL: nothing was stored yet, or only by an older version.
ALTER TABLE job ADD COLUMN delivered TEXT;
