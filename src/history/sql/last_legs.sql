SELECT body FROM (SELECT number, body FROM requests WHERE uid = ?1 ORDER BY number DESC LIMIT ?2)
ORDER BY number
