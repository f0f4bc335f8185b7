//! The way of a request through the proxy, one file per step, in order.
//!
//! `downstream` accepts connections and reads heads · `gateway` implements Pingora's `ProxyHttp`, each phase a few lines, and
//! `http_proxy` builds Pingora's proxy around it ·
//! `steps` moves a request from stage to stage · `request_ctx` holds the state of one request, `answer` that of its
//! response, `state` what all requests share · `receive` checks the head, of which `head_fields` finds the fields that it needs · `framing` rejects heads that two parsers
//! could read differently · `builtin` answers the proxy's own endpoints, of which `oauth_metadata` tells MCP clients where to get a token · `identify` determines the caller and the
//! session, and `last_caller` remembers it on the connection · `read` buffers the body of a model call, `unread` refuses one that cannot be read and matters, `batch` checks the models in batches · `admit` opens a leg, unless the session is killed · `govern` counts the request by the limits, `spending` holds what it may cost of its budgets, `waiting` lets it wait for room in both, and `load` counts how many do · `judge` does what the rules of `policy` say, `findings` words what is told of it, `turns` watches for agents that go in circles, `hold` keeps what rules hold until an operator answers, `ask` asks the services that decide besides, `judge_request` asks them about a request (`judge_failover` for the backends it may fail over to, `judge_texts` about its texts, `judge_call` about the call of a tool), `judge_upload` about a body that is not held (`passing`), `judge_socket` about the messages of a client (`client_messages`), and `facts` is what they, limits and budgets may ask for · `dispatch`
//! chooses the backend, `cached` answers from the HTTP cache and fills it (`lookup`), `failover` chooses between several and after a failure · `permissions` says what the caller's key permits and keeps it from backends · `mcp` applies the rules of MCP, `endpoints` knows which paths its servers have announced ·
//! `absolute` reads what a request to the forward proxy asks for (`forward_target`), `proxy_authorization` who sends it, `forward_route` decides
//! where it goes, `tunnel` connects a CONNECT (`tunnel_ends` counts what passes, `intercept` opens it), and `proxy_status` says why one is refused ·
//! `models` merges the model lists of all backends · `upstream_request` writes the head for the backend, `upstream_fields` decides which fields of the client are in it ·
//! `upstream_response` reads the head of the response · `body_filters` passes both bodies on, counts them and stops them
//! when the leg is cut, `judge_answer` judges what a response says by the rules (`answer_lanes` reads its texts, `judging` is its state), `withheld` keeps back what must not leave, `compress` compresses it for the client (`compressing`, by `compression_settings`), `next_step` holds more of the budgets while the answer is written (`answer_steps`) · `upgrade` holds what differs for WebSockets · `finish` accounts for the request, however it
//! ended: `verdict` says how an answer ended after its head, `usage` prices its tokens, `awaited` remembers which are still to be counted, `trace` writes its span, `capture` its bodies · `refuse` turns an error into a
//! response in the caller's dialect, with the status and head that `error_response` gives it · `security_headers` adds those fields to every head · `trace_context` reads and
//! sends `traceparent` · `runtime_settings` is what a reload replaces; `settings`, `http_settings`, `tls` and `forwarded` are its sections.
//! `trial` tries rules on requests and answers that are given. It connects `session`, `identity`, `upstream`, `routing`, `protocol` and `telemetry`, which do not know each other.
//! Invariants: a body is forwarded byte for byte, except for the model's name where `rewrite_model` is set; every leg is
//! settled exactly once.

mod absolute;
pub(crate) mod admit;
pub(crate) mod answer;
mod answer_lanes;
mod answer_steps;
mod ask;
pub(crate) mod awaited;
pub(crate) mod batch;
pub(crate) mod body_filters;
pub(crate) mod builtin;
pub(crate) mod cached;
pub(crate) mod capture;
mod client_messages;
mod compress;
pub(crate) mod compressing;
pub mod compression_settings;
pub(crate) mod dispatch;
pub mod downstream;
pub(crate) mod endpoints;
mod error_response;
mod facts;
pub(crate) mod failover;
mod findings;
pub(crate) mod finish;
mod forward_route;
mod forward_target;
pub mod forwarded;
pub(crate) mod framing;
pub(crate) mod gateway;
mod govern;
mod head_fields;
pub(crate) mod hold;
pub(crate) mod http_proxy;
pub mod http_settings;
pub(crate) mod identify;
mod intercept;
mod judge;
mod judge_answer;
mod judge_call;
mod judge_failover;
mod judge_request;
mod judge_socket;
mod judge_texts;
mod judge_upload;
mod judging;
mod key_places;
pub(crate) mod last_caller;
pub(crate) mod load;
mod lookup;
pub(crate) mod mcp;
pub(crate) mod models;
mod next_step;
mod oauth_metadata;
mod passing;
mod permissions;
mod proxy_authorization;
mod proxy_status;
pub(crate) mod read;
pub(crate) mod receive;
pub(crate) mod refuse;
pub(crate) mod request_ctx;
pub(crate) mod runtime_settings;
pub mod security_headers;
pub mod settings;
mod spending;
pub(crate) mod state;
pub(crate) mod steps;
mod text_border;
pub mod tls;
mod tool_lists;
pub(crate) mod trace;
pub(crate) mod trace_context;
pub mod trial;
mod tunnel;
mod tunnel_ends;
mod turns;
mod unknown_api;
pub(crate) mod unread;
pub(crate) mod upgrade;
mod upstream_fields;
pub(crate) mod upstream_request;
pub(crate) mod upstream_response;
pub(crate) mod usage;
pub(crate) mod verdict;
mod waiting;
mod withheld;
