//! The listening sockets: taken over from the process before this one, or bound.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::Context;
use rustix::net::sockopt;
use tracing::info;

use super::handover::{Inherited, Name, ReadySign};
use crate::config::Config;
use crate::settings::fault::Faults;

/// A connection on which nothing came for so long is asked whether its peer is still there...
const PROBE_AFTER: Duration = Duration::from_secs(60);
/// ... again after so long ...
const PROBE_EVERY: Duration = Duration::from_secs(15);
/// ... and closed after so many questions without an answer: a dead peer is gone after two minutes.
const PROBES: u32 = 4;
/// Bytes that a peer does not acknowledge for so long end its connection, too (TCP_USER_TIMEOUT, tcp(7)).
/// This also bounds a peer that does not read, so a longer `server.timeouts.write` counts instead.
const UNACKNOWLEDGED: Duration = Duration::from_secs(120);

/// The kernel reads the milliseconds of TCP_USER_TIMEOUT as a signed number.
const USER_TIMEOUT_MAX: u32 = i32::MAX as u32;

/// Connections that may wait to be accepted; Linux' own default limit. With the 128 of the standard library,
/// the rest of a fleet that connects at once would be asked to try again after a second (listen(2)).
const QUEUE: i32 = 4096;

/// The ports of the gateway.
pub(super) struct Listeners {
    pub(super) proxy: TcpListener,
    pub(super) control: TcpListener,
    /// To be told when this process serves.
    pub(super) ready: ReadySign,
    /// The line on which the process before this one talks about its sessions.
    pub(super) predecessor: Option<UnixStream>,
    /// Copies, for the process that takes this one's place.
    pub(super) copies: Vec<(Name, TcpListener)>,
}

impl Listeners {
    /// Takes the ports, so that a fault is told before anything runs.
    ///
    /// # Errors
    /// A port cannot be had, or the old process gave something else.
    pub(super) fn take(config: &Config) -> anyhow::Result<Self> {
        let mut inherited = Inherited::take().context("cannot take over from the old process")?;
        let patience = UNACKNOWLEDGED.max(config.server.timeouts().write);
        let mut copies = Vec::with_capacity(2);
        let mut take = |service: &str, key: &str, address: SocketAddr| -> anyhow::Result<TcpListener> {
            let name = Name { service: service.to_owned(), address };
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
            notice_dead_peers(&listener, patience).context("cannot set the options of a socket")?;
            info!(service, address = %listener.local_addr()?, inherited = is_inherited, "listening");
            copies.push((name, listener.try_clone()?));
            Ok(listener)
        };
        let proxy = take("proxy", "listen", config.listen)?;
        let control = take("control", "control.listen", config.control.listen())?;
        let predecessor = inherited.sessions();
        Ok(Self { proxy, control, ready: inherited.into_sign(), predecessor, copies })
    }
}

/// What will keep a start on this machine from listening where the configuration says. A port that is held
/// is no fault: the gateway that runs with this configuration holds it.
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

/// Makes the kernel notice peers that vanished without a word. Accepted sockets have these options from
/// their listener (Linux), so none has to be set per connection.
fn notice_dead_peers(listener: &TcpListener, patience: Duration) -> rustix::io::Result<()> {
    sockopt::set_socket_keepalive(listener, true)?;
    sockopt::set_tcp_keepidle(listener, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(listener, PROBE_EVERY)?;
    sockopt::set_tcp_keepcnt(listener, PROBES)?;
    sockopt::set_tcp_user_timeout(
        listener,
        u32::try_from(patience.as_millis()).unwrap_or(USER_TIMEOUT_MAX).min(USER_TIMEOUT_MAX),
    )
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn accepted_sockets_notice_dead_peers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        notice_dead_peers(&listener, Duration::from_secs(120)).unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(sockopt::socket_keepalive(&accepted).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&accepted).unwrap(), PROBE_AFTER);
        assert_eq!(sockopt::tcp_keepintvl(&accepted).unwrap(), PROBE_EVERY);
        assert_eq!(sockopt::tcp_keepcnt(&accepted).unwrap(), PROBES);
        assert_eq!(sockopt::tcp_user_timeout(&accepted).unwrap(), 120_000);
        notice_dead_peers(&listener, Duration::from_secs(60 * 24 * 3600)).unwrap();
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
