SELECT number, requests.uid, session_id, requests.body FROM requests
LEFT JOIN records ON records.uid = requests.uid
WHERE number > ?1 AND number <= ?2 AND at_ms >= ?3 AND at_ms < ?4 ORDER BY number LIMIT ?5
