-- A history of version 4 with three records of elida.cdr/1, as the program before elida.cdr/2 wrote it.
BEGIN TRANSACTION;
CREATE TABLE captures (
        number INTEGER PRIMARY KEY,
        uid TEXT NOT NULL,
        session_id TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
CREATE TABLE events (
        number INTEGER PRIMARY KEY,
        at_ms INTEGER NOT NULL,
        type TEXT NOT NULL,
        session_id TEXT NOT NULL,
        uid TEXT NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
INSERT INTO "events" VALUES(1,1795974904858,'session_started','old-0','s_01a228723c1a779ba3d9737a2e1b9eb0','{}');
INSERT INTO "events" VALUES(2,1795974904992,'session_ended','old-0','s_01a228723c1a779ba3d9737a2e1b9eb0','{}');
INSERT INTO "events" VALUES(3,1795974904992,'session_killed','old-0','s_01a228723c1a779ba3d9737a2e1b9eb0','{"at":"2026-11-29T17:55:04.9925861Z","by":"control:127.0.0.1","mode":"duration","reason":"a \"reason\"\né","scope":"anon:127.0.0.1","session_id":"old-0","uid":"s_01a228723c1a779ba3d9737a2e1b9eb0","until":"2026-11-30T17:55:04.9925861Z"}');
INSERT INTO "events" VALUES(4,1795974904996,'session_started','old-1','s_01a228723ca5738281eefa9cf88d16b5','{}');
INSERT INTO "events" VALUES(5,1795974905123,'session_ended','old-1','s_01a228723ca5738281eefa9cf88d16b5','{}');
INSERT INTO "events" VALUES(6,1795974905123,'session_killed','old-1','s_01a228723ca5738281eefa9cf88d16b5','{"at":"2026-11-29T17:55:05.1235861Z","by":"control:127.0.0.1","mode":"duration","reason":"a \"reason\"\né","scope":"anon:127.0.0.1","session_id":"old-1","uid":"s_01a228723ca5738281eefa9cf88d16b5","until":"2026-11-30T17:55:05.1235861Z"}');
INSERT INTO "events" VALUES(7,1795974905126,'session_started','old-2','s_01a228723d2673e4b760204db18c8223','{}');
INSERT INTO "events" VALUES(8,1795974905252,'session_ended','old-2','s_01a228723d2673e4b760204db18c8223','{}');
INSERT INTO "events" VALUES(9,1795974905251,'session_killed','old-2','s_01a228723d2673e4b760204db18c8223','{"at":"2026-11-29T17:55:05.2515861Z","by":"control:127.0.0.1","mode":"duration","reason":"a \"reason\"\né","scope":"anon:127.0.0.1","session_id":"old-2","uid":"s_01a228723d2673e4b760204db18c8223","until":"2026-11-30T17:55:05.2515861Z"}');
CREATE TABLE heads (
        seq INTEGER PRIMARY KEY,
        body TEXT NOT NULL
    ) STRICT;
INSERT INTO "heads" VALUES(3,'{"schema":"elida.cdr-head/1","seq":3,"hash":"d5f22db30a416f072ed092c7fc6c78fc7930ed6be9fdcdd4c6ab511a932224ae","at":"2026-11-29T17:55:06.261934019Z","key":"274adce5505783eed001fb65fc52c03232f79629f6f1120a240ccdb7fdd0a685","signature":"9ee4b13920b2b8cd5d21259a726275c133ff3139e925aca92e456be5026e9185f3791f5154524a3b5b7cf4e1f018067cce4497ef29a2d84ff7587f163540e408"}');
CREATE TABLE kills (
        uid TEXT NOT NULL,
        session_id TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        lifted_ms INTEGER,
        lifted_by TEXT,
        body TEXT NOT NULL
    , ends_ms INTEGER NOT NULL DEFAULT 9223372036854775807) STRICT;
INSERT INTO "kills" VALUES('s_01a228723c1a779ba3d9737a2e1b9eb0','old-0',1795974904992,NULL,NULL,'{"at":"2026-11-29T17:55:04.9925861Z","by":"control:127.0.0.1","mode":"duration","reason":"a \"reason\"\né","scope":"anon:127.0.0.1","session_id":"old-0","uid":"s_01a228723c1a779ba3d9737a2e1b9eb0","until":"2026-11-30T17:55:04.9925861Z"}',1796061304992);
INSERT INTO "kills" VALUES('s_01a228723ca5738281eefa9cf88d16b5','old-1',1795974905123,NULL,NULL,'{"at":"2026-11-29T17:55:05.1235861Z","by":"control:127.0.0.1","mode":"duration","reason":"a \"reason\"\né","scope":"anon:127.0.0.1","session_id":"old-1","uid":"s_01a228723ca5738281eefa9cf88d16b5","until":"2026-11-30T17:55:05.1235861Z"}',1796061305123);
INSERT INTO "kills" VALUES('s_01a228723d2673e4b760204db18c8223','old-2',1795974905251,NULL,NULL,'{"at":"2026-11-29T17:55:05.2515861Z","by":"control:127.0.0.1","mode":"duration","reason":"a \"reason\"\né","scope":"anon:127.0.0.1","session_id":"old-2","uid":"s_01a228723d2673e4b760204db18c8223","until":"2026-11-30T17:55:05.2515861Z"}',1796061305251);
CREATE TABLE records (
        seq INTEGER PRIMARY KEY,
        uid TEXT NOT NULL UNIQUE,
        session_id TEXT NOT NULL,
        state TEXT NOT NULL,
        kind TEXT NOT NULL,
        principal TEXT NOT NULL,
        client TEXT,
        backend TEXT,
        started_ms INTEGER NOT NULL,
        ended_ms INTEGER NOT NULL,
        requests INTEGER NOT NULL,
        errors INTEGER NOT NULL,
        bytes_in INTEGER NOT NULL,
        bytes_out INTEGER NOT NULL,
        prev TEXT NOT NULL,
        hash TEXT NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
INSERT INTO "records" VALUES(1,'s_01a228723c1a779ba3d9737a2e1b9eb0','old-0','killed','traffic','anon:127.0.0.1','python-urllib/3.11','default',1795974904858,1795974904992,1,0,83,546,'0000000000000000000000000000000000000000000000000000000000000000','85dbcb3a60abfa9648fc833fdaa057746739f2037f54dd85f4f65cd61c27c2fa','{"session_id":"old-0","state":"killed","duration_ms":134,"request_count":1,"bytes_in":83,"bytes_out":546,"backend":"http://127.0.0.1:18399","client_addr":"127.0.0.1","schema":"elida.cdr/1","uid":"s_01a228723c1a779ba3d9737a2e1b9eb0","incarnation":1,"previous_id":null,"kind":"traffic","started_at":"2026-11-29T17:55:04.8585861Z","ended_at":"2026-11-29T17:55:04.9925861Z","end_reason":"killed","ended_by":"control:127.0.0.1","principal":"anon:127.0.0.1","client":"python-urllib/3.11","identity_source":"header:x-session-id","agents":["main"],"backends":[{"name":"default","requests":1}],"failovers":0,"usage":{"models":[{"model":"gpt-5","requests":1,"input_tokens":3,"output_tokens":3,"cache_read_tokens":0,"cache_write_tokens":0,"cache_write_1h_tokens":0,"reasoning_tokens":0,"web_search_requests":0,"cost_usd":0.00003375}],"input_tokens":3,"output_tokens":3,"cache_read_tokens":0,"cache_write_tokens":0,"cache_write_1h_tokens":0,"reasoning_tokens":0,"web_search_requests":0,"cost_usd":0.00003375},"tools":{},"error_count":0,"errors":{},"ttfb_ms":{"p50":136,"p90":136,"p95":136},"flags":[],"kill":{"session_id":"old-0","scope":"anon:127.0.0.1","uid":"s_01a228723c1a779ba3d9737a2e1b9eb0","reason":"a \"reason\"\né","by":"control:127.0.0.1","at":"2026-11-29T17:55:04.9925861Z","mode":"duration","until":"2026-11-30T17:55:04.9925861Z"},"agent_kills":[],"chain":{"seq":1,"prev":"0000000000000000000000000000000000000000000000000000000000000000","hash":"85dbcb3a60abfa9648fc833fdaa057746739f2037f54dd85f4f65cd61c27c2fa"}}');
INSERT INTO "records" VALUES(2,'s_01a228723ca5738281eefa9cf88d16b5','old-1','killed','traffic','anon:127.0.0.1','python-urllib/3.11','default',1795974904996,1795974905123,1,0,83,546,'85dbcb3a60abfa9648fc833fdaa057746739f2037f54dd85f4f65cd61c27c2fa','269d121468497cfb00b10c55e474e12e11468407b53157e8be6066a270dfd39d','{"session_id":"old-1","state":"killed","duration_ms":127,"request_count":1,"bytes_in":83,"bytes_out":546,"backend":"http://127.0.0.1:18399","client_addr":"127.0.0.1","schema":"elida.cdr/1","uid":"s_01a228723ca5738281eefa9cf88d16b5","incarnation":1,"previous_id":null,"kind":"traffic","started_at":"2026-11-29T17:55:04.9965861Z","ended_at":"2026-11-29T17:55:05.1235861Z","end_reason":"killed","ended_by":"control:127.0.0.1","principal":"anon:127.0.0.1","client":"python-urllib/3.11","identity_source":"header:x-session-id","agents":["main"],"backends":[{"name":"default","requests":1}],"failovers":0,"usage":{"models":[{"model":"gpt-5","requests":1,"input_tokens":3,"output_tokens":3,"cache_read_tokens":0,"cache_write_tokens":0,"cache_write_1h_tokens":0,"reasoning_tokens":0,"web_search_requests":0,"cost_usd":0.00003375}],"input_tokens":3,"output_tokens":3,"cache_read_tokens":0,"cache_write_tokens":0,"cache_write_1h_tokens":0,"reasoning_tokens":0,"web_search_requests":0,"cost_usd":0.00003375},"tools":{},"error_count":0,"errors":{},"ttfb_ms":{"p50":124,"p90":124,"p95":124},"flags":[],"kill":{"session_id":"old-1","scope":"anon:127.0.0.1","uid":"s_01a228723ca5738281eefa9cf88d16b5","reason":"a \"reason\"\né","by":"control:127.0.0.1","at":"2026-11-29T17:55:05.1235861Z","mode":"duration","until":"2026-11-30T17:55:05.1235861Z"},"agent_kills":[],"chain":{"seq":2,"prev":"85dbcb3a60abfa9648fc833fdaa057746739f2037f54dd85f4f65cd61c27c2fa","hash":"269d121468497cfb00b10c55e474e12e11468407b53157e8be6066a270dfd39d"}}');
INSERT INTO "records" VALUES(3,'s_01a228723d2673e4b760204db18c8223','old-2','killed','traffic','anon:127.0.0.1','python-urllib/3.11','default',1795974905126,1795974905252,1,0,83,546,'269d121468497cfb00b10c55e474e12e11468407b53157e8be6066a270dfd39d','d5f22db30a416f072ed092c7fc6c78fc7930ed6be9fdcdd4c6ab511a932224ae','{"session_id":"old-2","state":"killed","duration_ms":126,"request_count":1,"bytes_in":83,"bytes_out":546,"backend":"http://127.0.0.1:18399","client_addr":"127.0.0.1","schema":"elida.cdr/1","uid":"s_01a228723d2673e4b760204db18c8223","incarnation":1,"previous_id":null,"kind":"traffic","started_at":"2026-11-29T17:55:05.1265861Z","ended_at":"2026-11-29T17:55:05.2525861Z","end_reason":"killed","ended_by":"control:127.0.0.1","principal":"anon:127.0.0.1","client":"python-urllib/3.11","identity_source":"header:x-session-id","agents":["main"],"backends":[{"name":"default","requests":1}],"failovers":0,"usage":{"models":[{"model":"gpt-5","requests":1,"input_tokens":3,"output_tokens":3,"cache_read_tokens":0,"cache_write_tokens":0,"cache_write_1h_tokens":0,"reasoning_tokens":0,"web_search_requests":0,"cost_usd":0.00003375}],"input_tokens":3,"output_tokens":3,"cache_read_tokens":0,"cache_write_tokens":0,"cache_write_1h_tokens":0,"reasoning_tokens":0,"web_search_requests":0,"cost_usd":0.00003375},"tools":{},"error_count":0,"errors":{},"ttfb_ms":{"p50":124,"p90":124,"p95":124},"flags":[],"kill":{"session_id":"old-2","scope":"anon:127.0.0.1","uid":"s_01a228723d2673e4b760204db18c8223","reason":"a \"reason\"\né","by":"control:127.0.0.1","at":"2026-11-29T17:55:05.2515861Z","mode":"duration","until":"2026-11-30T17:55:05.2515861Z"},"agent_kills":[],"chain":{"seq":3,"prev":"269d121468497cfb00b10c55e474e12e11468407b53157e8be6066a270dfd39d","hash":"d5f22db30a416f072ed092c7fc6c78fc7930ed6be9fdcdd4c6ab511a932224ae"}}');
CREATE TABLE requests (
        number INTEGER PRIMARY KEY,
        uid TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
INSERT INTO "requests" VALUES(1,'s_01a228723c1a779ba3d9737a2e1b9eb0',1795974904991,'{"request_id":"01a22872-3c1a-779b-a3d9-7379df1d22bf","kind":"request","method":"POST","path":"/v1/chat/completions","agent":null,"started_at":"2026-11-29T17:55:04.8585861Z","backend":"default","failover_from":null,"attempts":1,"model":"gpt-5","status":200,"error":null,"outcome":"ok","tools_offered":0,"input_tokens_estimate":21,"stop_reason":"stop","tools":{},"stream":false,"duration_ms":133,"ttfb_ms":133,"bytes_in":83,"bytes_out":546}');
INSERT INTO "requests" VALUES(2,'s_01a228723ca5738281eefa9cf88d16b5',1795974905120,'{"request_id":"01a22872-3ca4-7564-bcc5-8043e9a0f28d","kind":"request","method":"POST","path":"/v1/chat/completions","agent":null,"started_at":"2026-11-29T17:55:04.9965861Z","backend":"default","failover_from":null,"attempts":1,"model":"gpt-5","status":200,"error":null,"outcome":"ok","tools_offered":0,"input_tokens_estimate":21,"stop_reason":"stop","tools":{},"stream":false,"duration_ms":124,"ttfb_ms":124,"bytes_in":83,"bytes_out":546}');
INSERT INTO "requests" VALUES(3,'s_01a228723d2673e4b760204db18c8223',1795974905250,'{"request_id":"01a22872-3d26-73e4-b760-204c7bee629f","kind":"request","method":"POST","path":"/v1/chat/completions","agent":null,"started_at":"2026-11-29T17:55:05.1265861Z","backend":"default","failover_from":null,"attempts":1,"model":"gpt-5","status":200,"error":null,"outcome":"ok","tools_offered":0,"input_tokens_estimate":21,"stop_reason":"stop","tools":{},"stream":false,"duration_ms":124,"ttfb_ms":123,"bytes_in":83,"bytes_out":546}');
CREATE TABLE usage (
        seq INTEGER NOT NULL REFERENCES records (seq) ON DELETE CASCADE,
        model TEXT,
        requests INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        cache_read_tokens INTEGER NOT NULL,
        cache_write_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL,
        cost_usd REAL NOT NULL
    ) STRICT;
INSERT INTO "usage" VALUES(1,'gpt-5',1,3,3,0,0,0,3.375e-05);
INSERT INTO "usage" VALUES(2,'gpt-5',1,3,3,0,0,0,3.375e-05);
INSERT INTO "usage" VALUES(3,'gpt-5',1,3,3,0,0,0,3.375e-05);
CREATE INDEX records_by_end ON records (ended_ms);
CREATE INDEX records_by_id ON records (session_id);
CREATE INDEX usage_by_record ON usage (seq);
CREATE INDEX events_by_time ON events (at_ms);
CREATE INDEX events_by_uid ON events (uid);
CREATE INDEX kills_by_uid ON kills (uid);
CREATE INDEX kills_by_end ON kills (ends_ms);
CREATE INDEX kills_by_id ON kills (session_id);
CREATE INDEX requests_by_uid ON requests (uid);
CREATE VIEW legs AS SELECT seq, requests.body FROM requests JOIN records ON records.uid = requests.uid;
CREATE TRIGGER legs_of_an_older_program INSTEAD OF INSERT ON legs BEGIN
        INSERT INTO requests (uid, at_ms, body) SELECT uid, ended_ms, NEW.body FROM records WHERE seq = NEW.seq;
    END;
CREATE INDEX captures_by_time ON captures (at_ms);
CREATE INDEX captures_by_uid ON captures (uid);
CREATE INDEX captures_by_id ON captures (session_id);
COMMIT;
PRAGMA user_version = 4;
