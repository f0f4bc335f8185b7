//! All metrics: name, help text, and labels. `docs/metrics.md` documents them for operators.

/// The description of a metric.
pub(in crate::telemetry) struct Spec {
    /// The exposed name.
    pub(in crate::telemetry) name: &'static str,
    /// The help text: one sentence with the unit.
    pub(in crate::telemetry) help: &'static str,
    /// The label names, in the order of their values.
    pub(in crate::telemetry) labels: &'static [&'static str],
}

macro_rules! table {
    ($($id:ident = $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(in crate::telemetry) const $id: Spec = Spec { name: $name, help: $help, labels: &[$($label),*] };)*
        /// All metrics, for the test that compares them with the documentation.
        #[cfg(test)]
        pub(in crate::telemetry) const ALL: &[Spec] = &[$($id),*];
    };
}

table! {
    SESSIONS_ACTIVE = "elida_sessions_active" ["kind"]
        "Sessions that are active now.";
    SESSIONS_TOTAL = "elida_sessions_total" ["state", "kind"]
        "Sessions that ended, by their last state.";
    SESSIONS_LIMIT_USED = "elida_sessions_limit_used_ratio" ["limit"]
        "Share of a limit of active sessions that is in use; of the limit per principal, by the caller with the most.";
    SESSIONS_REFUSED = "elida_sessions_refused_total" ["limit"]
        "Sessions that were not opened because a limit was reached and all counted sessions had open requests.";
    SESSIONS_EVICTED = "elida_sessions_evicted_total" ["limit"]
        "Idle sessions that ended to make room for others.";
    RATE_LIMITED = "elida_rate_limited_total" ["scope", "unit"]
        "Requests refused because a limit of `limits` was used up, by its name.";
    ADMISSION_WAITING = "elida_admission_waiting" []
        "Requests that wait for room in limits and budgets.";
    BUDGET_RATIO = "elida_budget_ratio" ["budget"]
        "Share of a budget that is spent, of the name that has spent most of it.";
    BUDGET_REFUSED = "elida_budget_refused_total" ["budget", "reason"]
        "Requests refused because of a budget.";
    POLICY_DECISIONS = "elida_policy_decisions_total" ["rule", "action", "mode"]
        "Findings of rules, each once for each text, and what was refused because of one.";
    POLICY_UNKNOWN = "elida_policy_unknown_total" ["rule"]
        "Conditions of rules that could not be decided.";
    SCAN_BYTES = "elida_scan_bytes_total" ["outcome"]
        "Bytes of requests that rules asked for: read, or judged before.";
    WEBHOOK_MESSAGES = "elida_webhook_messages_total" ["webhook", "result"]
        "Messages to webhooks: delivered, failed attempts, and lost ones.";
    OCSF_EVENTS = "elida_ocsf_events_total" ["result"]
        "OCSF events for file and syslog: written and lost.";
    WEBHOOK_WAITING = "elida_webhook_waiting" ["webhook"]
        "Messages that wait to be sent to a webhook.";
    HOLD_SECONDS = "elida_hold_seconds" ["outcome"]
        "Time that a call was held until an operator answered, by what came of it.";
    EXTERNAL_SECONDS = "elida_external_seconds" ["name", "result"]
        "Time that a service of `policy.external` took to answer, by its answer: allow, flag, hold, block or kill; timeout, error, or breaker when it was not asked.";
    HELD_CALLS = "elida_held_calls" []
        "Calls that wait for an operator now.";
    COMPRESSED_BYTES = "elida_compressed_bytes_total" ["algorithm", "side"]
        "Bytes of answers that were compressed; in is from the backend, out is to the client.";
    SESSION_KILLS = "elida_session_kills_total" ["source"]
        "Kill orders carried out, by who gave them.";
    KILL_LATENCY = "elida_kill_latency_seconds" []
        "Time from a kill order to the end of a leg it cut.";
    REQUESTS = "elida_http_requests_total" ["route", "backend", "method", "code"]
        "Requests answered; backend is none when no backend was chosen.";
    REQUEST_DURATION = "elida_http_request_duration_seconds" ["route", "backend"]
        "Time from a request's head to the last byte of its answer.";
    PROXY_OVERHEAD = "elida_proxy_overhead_seconds" []
        "Time a request spent in ELIDA itself before it was sent on.";
    FIRST_BYTE = "elida_time_to_first_byte_seconds" ["backend"]
        "Time from a request sent on to the first byte of its answer.";
    BYTES = "elida_bytes_total" ["direction", "backend"]
        "Body bytes; in is from the client, out is to the client.";
    OPEN_LEGS = "elida_open_legs" ["kind"]
        "Requests, streams and sockets that are open now.";
    BACKEND_ERRORS = "elida_backend_errors_total" ["backend", "reason"]
        "Requests that failed at or on the way to a backend.";
    BACKEND_HEALTHY = "elida_backend_healthy" ["backend"]
        "1 while a backend is used, 0 while it is left alone because requests or probes failed.";
    FAILOVERS = "elida_failovers_total" ["backend", "reason"]
        "Requests that were sent on to another backend, by the one that failed and how.";
    TOKENS = "elida_tokens_total" ["backend", "model", "type"]
        "Tokens; input is without cached ones, output is all that the model wrote.";
    CACHE_HITS = "elida_cache_hits_total" []
        "Answers whose body came from the HTTP cache.";
    CACHE_MISSES = "elida_cache_misses_total" []
        "Answers to requests that may be answered from the HTTP cache, and were not.";
    CACHE_BYTES = "elida_cache_bytes" []
        "Bytes that the HTTP cache takes in memory, with what is being filled.";
    CACHE_HIT_RATIO = "elida_cache_hit_ratio" []
        "Share of hits in hits and misses since the cache was switched on.";
    CACHE_STORE_ERRORS = "elida_cache_store_errors_total" []
        "Commands of the HTTP cache that Redis did not answer; each counts as a miss.";
    STORE_UP = "elida_store_up" ["store"]
        "1 while the shared store answers, 0 while this instance goes on by itself.";
    STORE_OUTAGES = "elida_store_outages_total" ["store"]
        "Times the shared store stopped answering.";
    STORE_FALLBACKS = "elida_store_fallbacks_total" ["store"]
        "Admissions decided without the shared store.";
    STORE_LOST = "elida_store_lost_total" ["store", "what"]
        "Kill orders, and times the principals' key, that the shared store had lost and that were written again.";
    KEY_MISMATCH = "elida_principal_key_mismatch" []
        "1 while another principals' key than this instance's stands in the shared store.";
    STORE_EVENTS_DROPPED = "elida_store_events_dropped_total" ["store"]
        "Events of this instance that the feeds of the others do not show, because the shared store is slow or away.";
    ANSWERS_UNREAD = "elida_answers_unread_total" ["backend", "reason"]
        "Answers whose tokens are not counted: their coding could not be read, or the count cannot be true.";
    COST = "elida_cost_usd_total" ["backend", "model"]
        "Cost in US dollars of the tokens, by the configured prices.";
    ANSWERS_UNPRICED = "elida_answers_unpriced_total" ["backend", "model"]
        "Answers with tokens that have no price, and are not in the cost.";
    TENANT_REQUESTS = "elida_tenant_requests_total" ["tenant"]
        "Requests of callers of a tenant.";
    TENANT_TOKENS = "elida_tenant_tokens_total" ["tenant", "type"]
        "Tokens of callers of a tenant; input is without cached ones, output is all that the model wrote.";
    TENANT_COST = "elida_tenant_cost_usd_total" ["tenant"]
        "Cost of the tokens of callers of a tenant in US dollars.";
    JWKS_FETCHES = "elida_jwks_fetches_total" ["issuer", "result"]
        "Fetches of the keys of a token issuer: done or failed.";
    CONFIG_RELOADS = "elida_config_reloads_total" ["result"]
        "Reloads of the configuration: applied or rejected.";
    DASHBOARD_SESSIONS = "elida_dashboard_sessions" []
        "Browsers that are logged in to the dashboard now.";
    TUNNELS_OPEN = "elida_tunnels_open" []
        "Tunnels of the forward proxy that are open now.";
    TUNNEL_BYTES = "elida_tunnel_bytes_total" ["direction"]
        "Bytes in tunnels of the forward proxy; in is from the client, out is to the client.";
    FILTERED = "elida_filtered_total" ["reason"]
        "Requests refused because of the client's address, and requests and tunnels of the forward proxy that were refused or cut because of the port, host or address.";
    CONNECTIONS = "elida_connections" []
        "Client connections open at the proxy now.";
    CONNECTIONS_REFUSED = "elida_connections_refused_total" ["listener", "reason"]
        "Connections closed, and HTTP/2 requests refused, because there were too many.";
    PANICS = "elida_panics_total" []
        "Panics: each ended one request, and is a fault of ELIDA.";
    LOG_LINES_DROPPED = "elida_log_lines_dropped_total" []
        "Log lines dropped because the reader of the log was too slow.";
    HISTORY_UP = "elida_history_up" []
        "1 while the history can be written, 0 while it cannot.";
    HISTORY_INTACT = "elida_history_intact" []
        "1 while the history leads to what was signed last, 0 once it was changed and nothing is signed.";
    HISTORY_DROPPED = "elida_history_dropped_total" ["kind"]
        "Records, events and legs that the history could not take.";
    CAPTURES_DROPPED = "elida_captures_dropped_total" []
        "Requests whose bodies were to be kept and could not be taken.";
    OTLP_DROPPED = "elida_otlp_dropped_total" ["signal"]
        "Spans, log records and metrics that no collector took.";
    BUILD_INFO = "elida_build_info" ["version"]
        "Always 1; the label says which version runs.";
}
