-- Lists that are filtered by topic, or by a text in the reason, and find nothing, read every task.
CREATE INDEX task_topic ON task (topic, id);
CREATE INDEX task_reason ON task (id, reason) WHERE reason IS NOT NULL;
