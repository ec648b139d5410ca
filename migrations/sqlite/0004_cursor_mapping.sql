-- How the store was laid out when a cursor was stored ("timestamptz/bigint"): a time and a key mean something in it only. NULL: a
-- cursor of an older version.
ALTER TABLE job ADD COLUMN cursor_layout TEXT;
