-- Requests no longer need a record. An older version of the program that still writes during an upgrade (SIGQUIT)
-- writes through the view.
CREATE TABLE requests (
    number INTEGER PRIMARY KEY,
    uid TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT;
INSERT INTO requests (uid, at_ms, body) SELECT uid, coalesce(CAST(1000 * unixepoch(legs.body ->> '$.started_at',
    'subsec') AS INTEGER) + (legs.body ->> '$.duration_ms'), ended_ms), legs.body
    FROM legs JOIN records ON records.seq = legs.seq ORDER BY legs.rowid;
CREATE INDEX requests_by_uid ON requests (uid);
DROP TABLE legs;
CREATE VIEW legs AS SELECT seq, requests.body FROM requests JOIN records ON records.uid = requests.uid;
CREATE TRIGGER legs_of_an_older_program INSTEAD OF INSERT ON legs BEGIN
    INSERT INTO requests (uid, at_ms, body) SELECT uid, ended_ms, NEW.body FROM records WHERE seq = NEW.seq;
END;
