//! The listening sockets: inherited from the predecessor, or bound.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::Context;
use rustix::net::sockopt;
use tracing::info;

use super::components::Components;
use super::fd_passing::{InheritedSockets, ReadySignal, SocketName};
use crate::config::Config;
use crate::settings::fault::Faults;

/// Idle time after which the kernel sends the first keep-alive probe (tcp(7), TCP_KEEPIDLE).
const PROBE_AFTER: Duration = Duration::from_secs(60);
/// Time between two keep-alive probes (TCP_KEEPINTVL).
const PROBE_EVERY: Duration = Duration::from_secs(15);
/// Unanswered probes after which the connection is closed (TCP_KEEPCNT): a dead peer is gone after two minutes.
const PROBES: u32 = 4;
/// How long sent bytes may stay unacknowledged (TCP_USER_TIMEOUT). This also applies to a peer that does not read, so a
/// longer `server.timeouts.write` takes precedence.
const UNACKNOWLEDGED: Duration = Duration::from_secs(120);

/// The kernel reads the milliseconds of TCP_USER_TIMEOUT as a signed number.
const USER_TIMEOUT_MAX: u32 = i32::MAX as u32;

/// Length of the accept queue; Linux' default maximum. With the 128 of the standard library, most of a fleet that
/// connects at once would have to retry after a second (listen(2)).
const QUEUE: i32 = 4096;

/// The ports of the gateway.
pub(super) struct Listeners {
    pub(super) proxy: TcpListener,
    pub(super) control: TcpListener,
    /// Signals the predecessor that this process serves.
    pub(super) ready: ReadySignal,
    /// The session channel to the predecessor.
    pub(super) predecessor: Option<UnixStream>,
    /// Copies to pass to a successor.
    pub(super) copies: Vec<(SocketName, TcpListener)>,
}

impl Listeners {
    /// Takes the ports, so that a failure is reported before anything runs, and notes them for the forward proxy.
    ///
    /// # Errors
    /// A port cannot be bound, or the predecessor sent something unexpected.
    pub(super) fn take(config: &Config, shared: &Components) -> anyhow::Result<Self> {
        let mut inherited = InheritedSockets::take().context("cannot take over from the old process")?;
        let user_timeout = UNACKNOWLEDGED.max(config.server.timeouts().write);
        let mut copies = Vec::with_capacity(2);
        let mut take = |service: &str, key: &str, address: SocketAddr| -> anyhow::Result<TcpListener> {
            let name = SocketName { service: service.to_owned(), address };
            let old = inherited.listener(&name);
            let is_inherited = old.is_some();
            let listener = match old {
                Some(listener) => listener,
                None => TcpListener::bind(address).with_context(|| {
                    format!("{key}: cannot listen on {address}; is another program there?")
                })?,
            };
            listener.set_nonblocking(true)?;
            rustix::net::listen(&listener, QUEUE).context("cannot lengthen the queue of a socket")?;
            detect_dead_peers(&listener, user_timeout).context("cannot set the options of a socket")?;
            info!(service, address = %listener.local_addr()?, inherited = is_inherited, "listening");
            copies.push((name, listener.try_clone()?));
            Ok(listener)
        };
        let proxy = take("proxy", "listen", config.listen)?;
        let control = take("control", "control.listen", config.control.listen())?;
        shared.forward.own.set([proxy.local_addr()?, control.local_addr()?]);
        let predecessor = inherited.sessions();
        Ok(Self { proxy, control, ready: inherited.into_ready_signal(), predecessor, copies })
    }
}

/// Returns the faults that would keep a start on this machine from listening at the configured addresses. A port in use
/// is no fault, since a gateway that runs with this configuration uses it.
pub fn start_faults(config: &Config) -> Faults {
    let mut faults = Faults::default();
    for (key, address) in [("listen", config.listen), ("control.listen", config.control.listen())] {
        match TcpListener::bind(address) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                let hint = match error.kind() {
                    io::ErrorKind::PermissionDenied => "choose a port above 1023, or let this user take it",
                    _ => "write an address of this machine",
                };
                faults.add(key, format!("cannot listen on {address}: {error}"), hint);
            }
            _ => {}
        }
    }
    faults
}

/// Makes the kernel detect peers that vanished silently. Accepted sockets inherit the options from the listener on
/// Linux, so none has to be set per connection.
fn detect_dead_peers(listener: &TcpListener, user_timeout: Duration) -> rustix::io::Result<()> {
    sockopt::set_socket_keepalive(listener, true)?;
    sockopt::set_tcp_keepidle(listener, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(listener, PROBE_EVERY)?;
    sockopt::set_tcp_keepcnt(listener, PROBES)?;
    sockopt::set_tcp_user_timeout(
        listener,
        u32::try_from(user_timeout.as_millis()).unwrap_or(USER_TIMEOUT_MAX).min(USER_TIMEOUT_MAX),
    )
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn accepted_sockets_detect_dead_peers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        detect_dead_peers(&listener, Duration::from_secs(120)).unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(sockopt::socket_keepalive(&accepted).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&accepted).unwrap(), PROBE_AFTER);
        assert_eq!(sockopt::tcp_keepintvl(&accepted).unwrap(), PROBE_EVERY);
        assert_eq!(sockopt::tcp_keepcnt(&accepted).unwrap(), PROBES);
        assert_eq!(sockopt::tcp_user_timeout(&accepted).unwrap(), 120_000);
        detect_dead_peers(&listener, Duration::from_secs(60 * 24 * 3600)).unwrap();
    }

    #[test]
    fn a_crowd_that_connects_at_once_need_not_try_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::listen(&listener, QUEUE).unwrap();
        let address = listener.local_addr().unwrap();
        // Nobody accepts; without the longer queue the kernel drops the 130th and later.
        let connect = |_| TcpStream::connect_timeout(&address, Duration::from_millis(900));
        let crowd: Result<Vec<TcpStream>, _> = (0..400).map(connect).collect();
        assert_eq!(crowd.unwrap().len(), 400);
    }
}
