DELETE FROM requests WHERE number IN (SELECT number FROM requests WHERE uid IN
(SELECT uid FROM records WHERE seq <= ?1) LIMIT ?2)
