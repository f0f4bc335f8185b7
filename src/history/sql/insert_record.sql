INSERT INTO records (seq, uid, session_id, state, kind, principal, client, backend,
started_ms, ended_ms, requests, errors, bytes_in, bytes_out, prev, hash, body, seal)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)
ON CONFLICT (uid) DO NOTHING
