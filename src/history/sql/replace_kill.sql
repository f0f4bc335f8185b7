UPDATE kills SET ends_ms = min(ends_ms, ?1) WHERE session_id = ?2
AND CASE WHEN json_valid(body) THEN body ->> '$.scope' END = ?3
AND CASE WHEN json_valid(body) THEN body ->> '$.agent' END IS ?4
