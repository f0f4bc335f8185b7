//! The bundled fake provider: what the quickstart, the docs, the tests and the benches talk to.
//!
//! It speaks OpenAI (chat completions, completions, responses, embeddings, models), Anthropic
//! (messages, token counting, models), Mistral (OpenAI's path, distinguished by the model's name), Ollama
//! (all but blobs), Gemini and Cohere, streamed and whole, with tools; Realtime and responses also over
//! WebSockets; MCP with one tool; A2A. A path is matched by its tail, so a base path
//! (`/some/base/v1/chat/completions`) is served as well. `/echo` returns the request's body; `HEAD /` and `GET /`
//! answer 200. Each dialect has a file; [`registry`] lists them.
//!
//! An answer is a pure function of the request: it echoes the last user text, one stream event per
//! word, and counts usage in words. [`play()`] sends it requests as agents would. Directives in that text steer it and are not echoed:
//!
//! | Directive | Effect |
//! |---|---|
//! | `[[words N]]` | answer N words (`word1 word2 …`) instead of the echo |
//! | `[[pace 20ms]]` | wait this long before each further word (whole answers: once for all words) |
//! | `[[stall]]` | send the head and everything up to the first word, then be silent |
//! | `[[mute]]` | read the request and never answer, not even a head |
//! | `[[error 529]]` | answer with that status and the vendor's error body; `[[error 529 2]]`: with `retry-after: 2` |
//! | `[[cut]]` | break the connection after the second word (whole answers: in mid-body) |
//! | `[[cached 5]]`, `[[written 5]]`, `[[reasoning 5]]` | count this many more tokens: read from the prompt cache, written to it, spent on reasoning |
//! | `[[gzip]]`, `[[deflate]]`, `[[br]]` | compress the answer so, whatever the request accepts |
//! | `[[tool NAME {json}]]` | call that tool, if it was offered and has not answered since that text |
//!
//! Neighbours: no lower module uses it; the command `elida demo` and the tests start it.
//! Invariant: no state but the open sessions of MCP, and the [`Ledger`], which only counts and never steers.

mod a2a;
mod anthropic;
mod body;
mod cohere;
mod gemini;
mod ledger;
mod mcp;
mod mistral;
mod ollama;
mod openai;
mod packing;
mod play;
mod provider;
mod registry;
mod responses;
mod route;
mod script;
mod socket;
mod turn;

pub use ledger::{Ledger, Seen};
pub use play::play;
pub use provider::{Provider, serve};
pub use registry::{BACKENDS, client_example};
pub use route::Backend;
