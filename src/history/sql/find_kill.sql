SELECT 1 FROM kills WHERE uid = ?1 AND at_ms = ?2
AND CASE WHEN json_valid(body) THEN body ->> '$.agent' END IS ?3
