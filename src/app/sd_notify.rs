//! Reports the state of the process to systemd (sd_notify(3)): ready, stopping, main process.

use std::ffi::OsStr;
use std::io;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::debug;

/// Names the socket of systemd: a path, or `@` and an abstract name.
const SOCKET: &str = "NOTIFY_SOCKET";

/// Reports that this process serves.
pub(super) fn ready() {
    notify("READY=1");
}

/// Reports that this process is about to end.
pub(super) fn stopping() {
    notify("STOPPING=1");
}

/// Makes the process `id` the main process of the service.
pub(super) fn main_process(id: u32) {
    notify(&format!("MAINPID={id}"));
}

/// Sends `state`; does nothing without a service manager that asks for it.
fn notify(state: &str) {
    if let Some(socket) = std::env::var_os(SOCKET)
        && let Err(error) = send(&socket, state)
    {
        debug!(%error, state, "the service manager cannot be told");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    // A service manager that does not read must not delay a stop.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_hears_each_word_as_a_datagram() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "MAINPID=7").unwrap();
        let mut word = [0; 64];
        let length = manager.recv(&mut word).unwrap();
        assert_eq!(&word[..length], b"MAINPID=7");
    }
}
