-- The tenant of the caller, read from the record itself: it cannot differ from what is proved.
ALTER TABLE records ADD COLUMN tenant TEXT
    GENERATED ALWAYS AS (CASE WHEN json_valid(body) THEN CAST(body ->> '$.tenant' AS TEXT) END) VIRTUAL;
CREATE INDEX records_by_tenant ON records (tenant, ended_ms);
-- Answers whose tokens are an estimate of the gateway.
ALTER TABLE usage ADD COLUMN estimated_answers INTEGER NOT NULL DEFAULT 0;
