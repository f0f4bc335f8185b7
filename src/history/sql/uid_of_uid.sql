SELECT uid FROM (SELECT uid FROM requests WHERE uid = ?1 LIMIT 1)
UNION SELECT uid FROM records WHERE uid = ?1
