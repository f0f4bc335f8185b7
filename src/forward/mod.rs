//! The forward proxy: where a client may be connected to.
//!
//! `settings` compiles `forward_proxy:` and `security.filtering` · `target` reads where a request wants to go · `names` holds it
//! against the patterns of domains · `resolve` finds the addresses of a name, once · `addresses` knows which of them are private,
//! `own` which are the gateway's own, and `reach` decides by all of them · `server_name` reads the first bytes in a tunnel ·
//! `intercept` has the authority that tunnels are opened with (`intercept_settings`) ·
//! `open` counts tunnels, and cuts those whose host a reload blocks.
//! Neighbours: `proxy` asks where a request may go and connects to exactly the addresses that it gets; `app` tells where the
//! gateway listens.
//! Invariants: every address of a name is judged before one of them is connected to, and no name is looked up a second time for
//! the same request; what cannot be decided is refused.

pub mod addresses;
pub mod intercept;
pub mod intercept_settings;
pub mod names;
pub mod open;
pub mod own;
pub mod reach;
pub mod resolve;
pub mod server_name;
pub mod settings;
pub mod target;

pub use intercept::Interceptor;
pub use open::{OpenTunnel, OpenTunnels};
pub use own::OwnListeners;
pub use reach::NotReached;
pub use resolve::Resolver;
pub use settings::{ForwardConfig, SecurityConfig, Settings};
pub use target::{Host, Target};

/// What outlives a reload: the open tunnels, and where this process listens.
#[derive(Clone, Default)]
pub struct Shared {
    /// The open tunnels.
    pub tunnels: std::sync::Arc<OpenTunnels>,
    /// The addresses of the gateway's own listeners.
    pub own: std::sync::Arc<OwnListeners>,
}
