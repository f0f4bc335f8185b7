SELECT uid, body FROM records WHERE uid = ?1 OR session_id = ?1
ORDER BY uid = ?1 DESC, seq DESC LIMIT 1
