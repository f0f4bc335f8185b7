UPDATE kills SET lifted_ms = ?1, lifted_by = ?2, ends_ms = min(ends_ms, ?1)
WHERE uid = ?3 AND at_ms = ?4 AND (lifted_ms IS NULL OR ?2 IS NOT NULL)
AND CASE WHEN json_valid(body) THEN body ->> '$.agent' END IS ?5
