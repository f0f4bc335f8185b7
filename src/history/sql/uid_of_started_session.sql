SELECT uid FROM events WHERE session_id = ?1 AND type = 'session_started'
ORDER BY number DESC LIMIT 1
