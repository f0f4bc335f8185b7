SELECT captures.body, records.body FROM captures LEFT JOIN records ON records.uid = captures.uid
WHERE captures.at_ms >= ?1 ORDER BY captures.number
