-- A log entry is stored as what happened, not as text: `kind` names it, `body` has it as JSON. Entries of older versions have
-- no kind, and their body is the text itself.
ALTER TABLE event ADD COLUMN kind TEXT;
ALTER TABLE event RENAME COLUMN message TO body;
ALTER TABLE event RENAME COLUMN ends TO final_state;
-- One word for one thing.
ALTER TABLE task RENAME COLUMN turn TO served_seq;
ALTER TABLE job RENAME COLUMN held TO quarantined;
ALTER TABLE quarantine RENAME COLUMN held_at TO quarantined_at;
