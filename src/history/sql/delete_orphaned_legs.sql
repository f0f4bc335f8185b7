DELETE FROM requests WHERE number IN (SELECT number FROM requests WHERE number <
coalesce((SELECT number FROM requests WHERE at_ms >= ?1 ORDER BY number LIMIT 1), 9223372036854775807)
AND NOT EXISTS (SELECT 1 FROM records WHERE records.uid = requests.uid) LIMIT ?2)
