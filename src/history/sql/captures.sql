SELECT number, body FROM captures WHERE (uid = ?1 OR session_id = ?1) AND number < ?2
ORDER BY number DESC LIMIT ?3
