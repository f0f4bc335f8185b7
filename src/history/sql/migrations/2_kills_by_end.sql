-- `ends_ms` is when a kill order ends: its block expires, another order replaces it, or it is lifted.
ALTER TABLE kills ADD COLUMN ends_ms INTEGER NOT NULL DEFAULT 9223372036854775807;
UPDATE kills SET ends_ms = coalesce(lifted_ms,
    CASE WHEN json_valid(body) THEN unixepoch(body ->> '$.until') * 1000 END, ends_ms);
CREATE INDEX kills_by_end ON kills (ends_ms);
CREATE INDEX kills_by_id ON kills (session_id);
