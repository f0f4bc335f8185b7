SELECT at_ms, type, session_id, uid, body, number FROM events WHERE at_ms >= ?1
AND at_ms < ?2 AND (?3 IS NULL OR type = ?3) AND number < ?4 ORDER BY number DESC LIMIT ?5
