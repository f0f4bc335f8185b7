SELECT rowid, body FROM kills INDEXED BY kills_by_end WHERE ends_ms > ?1
AND rowid > ?2 AND lifted_ms IS NULL ORDER BY at_ms DESC LIMIT ?3
