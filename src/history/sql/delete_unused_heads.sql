DELETE FROM heads WHERE seq < (SELECT coalesce(min(seq), 9223372036854775807) - 1 FROM records)
AND seq < (SELECT max(seq) FROM heads)
