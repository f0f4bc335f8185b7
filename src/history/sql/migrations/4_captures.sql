-- Captured bodies.
CREATE TABLE captures (
    number INTEGER PRIMARY KEY,
    uid TEXT NOT NULL,
    session_id TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX captures_by_time ON captures (at_ms);
CREATE INDEX captures_by_uid ON captures (uid);
CREATE INDEX captures_by_id ON captures (session_id);
