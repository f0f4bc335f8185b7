CREATE TABLE records (
    seq INTEGER PRIMARY KEY,
    uid TEXT NOT NULL UNIQUE,
    session_id TEXT NOT NULL,
    state TEXT NOT NULL,
    kind TEXT NOT NULL,
    principal TEXT NOT NULL,
    client TEXT,
    backend TEXT,
    started_ms INTEGER NOT NULL,
    ended_ms INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    bytes_in INTEGER NOT NULL,
    bytes_out INTEGER NOT NULL,
    prev TEXT NOT NULL,
    hash TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX records_by_end ON records (ended_ms);
CREATE INDEX records_by_id ON records (session_id);
CREATE TABLE usage (
    seq INTEGER NOT NULL REFERENCES records (seq) ON DELETE CASCADE,
    model TEXT,
    requests INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    cost_usd REAL NOT NULL
) STRICT;
CREATE INDEX usage_by_record ON usage (seq);
CREATE TABLE legs (
    seq INTEGER NOT NULL REFERENCES records (seq) ON DELETE CASCADE,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX legs_by_record ON legs (seq);
CREATE TABLE events (
    number INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    type TEXT NOT NULL,
    session_id TEXT NOT NULL,
    uid TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_time ON events (at_ms);
CREATE INDEX events_by_uid ON events (uid);
CREATE TABLE kills (
    uid TEXT NOT NULL,
    session_id TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    lifted_ms INTEGER,
    lifted_by TEXT,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX kills_by_uid ON kills (uid);
CREATE TABLE heads (
    seq INTEGER PRIMARY KEY,
    body TEXT NOT NULL
) STRICT;
