//! Every endpoint: its path, its handler and its description, which becomes the OpenAPI document.

use super::super::api::audit::{AuditList, AuditQuery, AuditVerification, Whoami};
use super::super::api::error::ErrorCode::*;
use super::super::api::history::{
    CapturePage, CapturesQuery, EventPage, EventsQuery, ExportQuery, HistoryQuery, RequestsQuery, Series,
    SeriesQuery, UsageQuery, UsageReport, UsageSeries, UsageSeriesQuery,
};
use super::super::api::keys::{KeyList, KeysQuery, MadeKey, NewKey, RevokedKey, RotateBody};
use super::super::api::overview::{CookieEnd, CookieLogin, CookieReply};
use super::super::api::params::SessionQuery;
use super::super::api::people::TicketQuery;
use super::super::api::sessions::{SessionPage, SessionsQuery};
use super::super::openapi::Operation;
use super::endpoint::{Endpoint, on_delete, on_get, on_post};
use super::governance_table::{
    APPROVALS, BUDGETS, CACHE, approval_endpoints, budget_endpoints, cache_endpoints,
};
use super::instance_table::{
    INSTANCE, PROBES, config_endpoints, instance_endpoints, overview_endpoints, probes,
};
use super::kill_table::kill_endpoints;
use super::people_table::{PEOPLE, change_endpoints, login_endpoints, own_endpoints, user_endpoints};
use super::policy_table::{POLICY, policy_endpoints};
use super::{audit, dashboard, events, export, history, keys, sessions};
use crate::history::read::legs::LegPage;
use crate::history::read::reader::{RecordDetail, RecordPage};
use crate::identity::roles::Right;
use crate::session::SessionView;

/// Groups of endpoints.
pub(in crate::control) const TAGS: [(&str, &str); 11] = [
    (SESSIONS, "Active and ended sessions, kills and the live feed."),
    (APPROVALS, "Calls that rules hold until operators answer."),
    (HISTORY, "Records of ended sessions, their requests and sums."),
    (ACCESS, "Who may call, and who changed what."),
    (KEYS, "Keys for callers of the proxy."),
    (BUDGETS, "What was spent of budgets, and what is added to their limits."),
    (CACHE, "Answers of ordinary servers that are stored, and purges."),
    (POLICY, "Rules for requests, answers and tool calls: what they found, and what is suppressed."),
    (PEOPLE, "People who log in, and their accounts."),
    (INSTANCE, "Configuration, backends, totals and metrics of this instance."),
    (PROBES, "Probes for orchestrators; they need no token."),
];
pub(super) const SESSIONS: &str = "sessions";
const HISTORY: &str = "history";
const ACCESS: &str = "access";
const KEYS: &str = "keys";

/// Every endpoint, in the order of the document.
pub(in crate::control) fn endpoints() -> impl Iterator<Item = Endpoint> {
    let groups = [
        session_endpoints(),
        kill_endpoints(),
        approval_endpoints(),
        history_endpoints(),
        record_endpoints(),
        access_endpoints(),
        cookie_endpoints(),
        key_endpoints(),
        budget_endpoints(),
        cache_endpoints(),
        policy_endpoints(),
        login_endpoints(),
        own_endpoints(),
        user_endpoints(),
        change_endpoints(),
        instance_endpoints(),
        config_endpoints(),
        overview_endpoints(),
        probes(),
    ];
    groups.into_iter().flatten()
}

fn session_endpoints() -> Vec<Endpoint> {
    let operation = |id, summary| Operation::new(SESSIONS, id, summary, Right::Read);
    vec![
        on_get(
            "/control/sessions",
            sessions::list,
            operation("listSessions", "Lists sessions, newest first")
                .by_tenant()
                .query::<SessionsQuery>()
                .ok::<SessionPage>("A page of sessions.")
                .errors(&[BadRequest]),
        ),
        on_get(
            "/control/sessions/{id}",
            sessions::one,
            operation("getSession", "Returns a session with its agents, open legs and last 20 requests")
                .by_tenant()
                .query::<SessionQuery>()
                .ok::<SessionView>("The session.")
                .errors(&[BadRequest, SessionNotFound, SessionAmbiguous]),
        ),
        on_get(
            "/control/events",
            events::feed,
            operation("readEvents", "Streams what happens to sessions from now on, as server-sent events")
                .query::<TicketQuery>()
                .text(&["text/event-stream"], "The feed; x-events has the data of each event by its name.")
                .errors(&[TooManyFeeds]),
        ),
    ]
}

fn history_endpoints() -> Vec<Endpoint> {
    let operation = |id, summary| Operation::new(HISTORY, id, summary, Right::History);
    vec![
        on_get(
            "/control/history",
            history::list,
            operation("listRecords", "Lists records of ended sessions, the last written first")
                .by_tenant()
                .query::<HistoryQuery>()
                .ok::<RecordPage>("A page of records.")
                .errors(history::ERRORS),
        ),
        on_get(
            "/control/history/events",
            history::events,
            operation("listEvents", "Lists what happened to sessions, newest first")
                .query::<EventsQuery>()
                .ok::<EventPage>("A page of events.")
                .errors(history::ERRORS),
        ),
        on_get(
            "/control/history/series",
            history::series,
            operation("getSeries", "Returns sums over the sessions that ended in each minute, hour or day")
                .needs(Right::Usage)
                .by_tenant()
                .query::<SeriesQuery>()
                .ok::<Series>("The points with at least one session.")
                .errors(history::ERRORS),
        ),
        on_get(
            "/control/usage",
            history::usage,
            operation("getUsage", "Sums requests, tokens and cost of ended sessions, most expensive first")
                .needs(Right::Usage)
                .by_tenant()
                .query::<UsageQuery>()
                .ok::<UsageReport>("At most 1000 lines.")
                .errors(history::ERRORS),
        ),
        on_get(
            "/control/usage/series",
            history::usage_series,
            operation(
                "getUsageSeries",
                "Sums requests, tokens and cost of ended sessions in each minute, hour or day",
            )
            .needs(Right::Usage)
            .by_tenant()
            .query::<UsageSeriesQuery>()
            .ok::<UsageSeries>("At most 10,000 lines.")
            .errors(history::ERRORS),
        ),
    ]
}

fn record_endpoints() -> Vec<Endpoint> {
    let operation = |id, summary| Operation::new(HISTORY, id, summary, Right::History);
    vec![
        on_get(
            "/control/history/{id}/captures",
            history::captures,
            operation("listCaptures", "Lists the captured bodies of a session, newest first")
                .audited()
                .query::<CapturesQuery>()
                .ok::<CapturePage>("A page of captures.")
                .errors(history::ERRORS),
        ),
        on_get(
            "/control/records/export",
            export::export,
            operation("exportRecords", "Exports all records or requests as a file")
                .audited()
                .query::<ExportQuery>()
                .text(&["application/x-ndjson", "text/csv"], "The file, in the format that was asked for.")
                .errors(&[BadRequest, HistoryDisabled, TooManyExports]),
        ),
        on_get(
            "/control/records/{id}",
            history::one,
            operation(
                "getRecord",
                "Returns the record of a session with its last requests, events and kills",
            )
            .by_tenant()
            .ok::<RecordDetail>("The record.")
            .errors(history::ERRORS_OF_ONE),
        ),
        on_get(
            "/control/records/{id}/requests",
            history::requests,
            operation("listRequests", "Lists the requests of a session in the order in which they ended")
                .by_tenant()
                .query::<RequestsQuery>()
                .ok::<LegPage>("A page of requests.")
                .errors(history::ERRORS_OF_REQUESTS),
        ),
    ]
}

fn access_endpoints() -> Vec<Endpoint> {
    let operation = |id, summary, right| Operation::new(ACCESS, id, summary, right);
    vec![
        on_get(
            "/control/whoami",
            audit::whoami,
            operation(
                "getWhoami",
                "Returns the caller, its roles and permissions, and what is on",
                Right::Read,
            )
            .by_tenant()
            .ok::<Whoami>("The caller."),
        ),
        on_get(
            "/control/audit",
            audit::list,
            operation("listAudit", "Lists the changes that operators made, newest first", Right::Audit)
                .query::<AuditQuery>()
                .ok::<AuditList>("A page of lines.")
                .errors(&[BadRequest, StateUnavailable, Internal]),
        ),
        on_get(
            "/control/audit/verify",
            audit::verify,
            operation("verifyAudit", "Verifies the audit log with the keys of this instance", Right::Audit)
                .ok::<AuditVerification>("What was found.")
                .errors(&[StateUnavailable, Internal, TooManyExports]),
        ),
    ]
}

fn cookie_endpoints() -> Vec<Endpoint> {
    vec![
        on_post(
            "/control/login",
            dashboard::log_in,
            Operation::probe(ACCESS, "beginCookie", "Logs a browser in: the answer sets a cookie")
                .audited()
                .body::<CookieLogin>()
                .ok::<CookieReply>("The cookie is valid.")
                .errors(&[LoginFailed, LoginDisabled, TooManyAttempts, StateUnavailable, Internal]),
        ),
        on_post(
            "/control/logout",
            dashboard::log_out,
            Operation::probe(ACCESS, "endCookie", "Ends the log-in of a browser, and its cookie")
                .audited()
                .ok::<CookieEnd>("The cookie is not valid any more.")
                .errors(&[StateUnavailable, Internal]),
        ),
    ]
}

fn key_endpoints() -> Vec<Endpoint> {
    let operation =
        |id, summary| Operation::new(KEYS, id, summary, Right::Keys).names("The id of a key.").by_tenant();
    vec![
        on_get(
            "/control/keys",
            keys::list,
            operation("listKeys", "Lists the keys of callers, without the keys themselves")
                .query::<KeysQuery>()
                .ok::<KeyList>("The keys.")
                .errors(&[BadRequest]),
        ),
        on_post(
            "/control/keys",
            keys::create,
            operation("createKey", "Makes a key, and shows it this once")
                .body::<NewKey>()
                .answer::<MadeKey>(201, "The key is in force.")
                .errors(&[KeyExists, ManagedByFile, StateUnavailable, Internal]),
        ),
        on_post(
            "/control/keys/{id}/rotate",
            keys::rotate,
            operation("rotateKey", "Replaces a key by a new one, and shows it this once")
                .body::<RotateBody>()
                .ok::<MadeKey>("The new key is in force.")
                .errors(&[KeyNotFound, ManagedByFile, StateUnavailable, Internal]),
        ),
        on_delete(
            "/control/keys/{id}",
            keys::revoke,
            operation("revokeKey", "Revokes a key, and cuts its open requests")
                .ok::<RevokedKey>("The key is refused from now on.")
                .errors(&[KeyNotFound, ManagedByFile, StateUnavailable, Internal]),
        ),
    ]
}
