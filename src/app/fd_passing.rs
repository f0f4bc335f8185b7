//! Passes the listening sockets of a running process to its successor.
//!
//! The standard input of the new process is one end of a Unix socket pair. The old process sends the sockets over it as
//! `SCM_RIGHTS` (unix(7)), each with its service and its configured address, together with one end of a second pair, the
//! session channel of the two processes. The new process writes one byte when it serves. So no descriptor is inherited
//! by number, none has to stay open across `exec`, and the channel closes when the new process ends for any reason.

use std::env;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::parent_id;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

/// Environment variable that marks the standard input of the new process as such a channel. Its value is the id of the
/// old process, so that other descendants which inherit the variable ignore it.
pub(super) const VARIABLE: &str = "ELIDA_HANDOVER";

/// The byte that the new process writes when it serves.
const READY: u8 = b'R';

/// The most sockets in one message; the kernel's own limit is 253.
const SOCKETS_MAX: usize = 16;

/// Service name of the session channel.
const SESSIONS: &str = "sessions";

/// Maximum length of the list of names, in bytes.
const NAMES_MAX: usize = 4096;

/// Identifies a socket.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct SocketName {
    /// `proxy` or `control`.
    pub(super) service: String,
    /// The configured address, so that port 0 matches.
    pub(super) address: SocketAddr,
}

/// Sends the sockets and the other end of the session channel; all stay open in this process, too.
///
/// # Errors
/// The system call fails, or there are too many sockets.
pub(super) fn send(
    line: &UnixStream,
    sockets: &[(SocketName, TcpListener)],
    sessions: &UnixStream,
) -> io::Result<()> {
    let channel = SocketName { service: SESSIONS.to_owned(), address: ([0, 0, 0, 0], 0).into() };
    let names: Vec<&SocketName> = sockets.iter().map(|(name, _)| name).chain([&channel]).collect();
    let names = serde_json::to_vec(&names)?;
    let descriptors: Vec<_> =
        sockets.iter().map(|(_, socket)| socket.as_fd()).chain([sessions.as_fd()]).collect();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if names.len() > NAMES_MAX || !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("too many listeners"));
    }
    let sent = sendmsg(line, &[IoSlice::new(&names)], &mut control, SendFlags::empty())?;
    match sent == names.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Receives what [`send`] has sent.
fn receive(line: &UnixStream) -> io::Result<Vec<(SocketName, OwnedFd)>> {
    let mut text = [0; NAMES_MAX];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(line, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            descriptors.extend(sent);
        }
    }
    let names: Vec<SocketName> = serde_json::from_slice(&text[..received.bytes])?;
    if names.len() != descriptors.len() {
        return Err(io::Error::other("names and sockets do not match"));
    }
    Ok(names.into_iter().zip(descriptors).collect())
}

/// Waits until the new process serves.
///
/// # Errors
/// The new process ended, or `limit` has passed.
pub(super) fn wait_until_ready(mut line: &UnixStream, limit: Duration) -> io::Result<()> {
    line.set_read_timeout(Some(limit))?;
    let mut byte = [0];
    line.read_exact(&mut byte)
}

/// Sockets from the predecessor of this process; empty without one.
#[derive(Default)]
pub(super) struct InheritedSockets {
    sockets: Vec<(SocketName, OwnedFd)>,
    line: Option<UnixStream>,
}

impl InheritedSockets {
    /// Receives the sockets over the standard input, if that is a channel to a predecessor.
    ///
    /// # Errors
    /// The standard input is not such a channel, or the message on it is malformed.
    pub(super) fn take() -> io::Result<Self> {
        let old = env::var(VARIABLE).ok().and_then(|id| id.parse::<u32>().ok());
        if old != Some(parent_id()) {
            return Ok(Self::default());
        }
        let line = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        // The channel must close with this process' own copy of it.
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        let sockets = receive(&line)?;
        Ok(Self { sockets, line: Some(line) })
    }

    /// Takes the socket of a service; `None` if none listens at the configured address.
    pub(super) fn listener(&mut self, name: &SocketName) -> Option<TcpListener> {
        let index = self.sockets.iter().position(|(known, _)| known == name)?;
        Some(TcpListener::from(self.sockets.swap_remove(index).1))
    }

    /// Takes the session channel; `None` when the predecessor is a version without it.
    pub(super) fn sessions(&mut self) -> Option<UnixStream> {
        let index = self.sockets.iter().position(|(known, _)| known.service == SESSIONS)?;
        Some(UnixStream::from(self.sockets.swap_remove(index).1))
    }

    /// Returns the signal that this process serves. Closes the sockets that were not taken.
    pub(super) fn into_ready_signal(self) -> ReadySignal {
        ReadySignal(Mutex::new(self.line))
    }
}

/// Tells the predecessor that this process serves.
pub(super) struct ReadySignal(Mutex<Option<UnixStream>>);

impl ReadySignal {
    /// Sends the signal, once. Returns false without a predecessor.
    pub(super) fn send(&self) -> bool {
        let line = self.0.lock().take();
        line.is_some_and(|mut line| line.write_all(&[READY]).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(service: &str) -> SocketName {
        SocketName { service: service.to_owned(), address: ([127, 0, 0, 1], 0).into() }
    }

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    #[test]
    fn sockets_arrive_with_their_names() {
        let (old, new) = UnixStream::pair().unwrap();
        let sockets = [(name("proxy"), listener()), (name("control"), listener())];
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        send(&old, &sockets, &theirs).unwrap();
        let mut inherited = InheritedSockets { sockets: receive(&new).unwrap(), line: Some(new) };
        let control = inherited.listener(&name("control")).unwrap();
        assert_eq!(control.local_addr().unwrap(), sockets[1].1.local_addr().unwrap());
        assert!(inherited.listener(&name("control")).is_none(), "it is taken once");
        inherited.sessions().unwrap().write_all(b"x").unwrap();
        ours.read_exact(&mut [0]).unwrap();
        assert!(inherited.sessions().is_none());
        let elsewhere = SocketName { address: ([127, 0, 0, 1], 1).into(), ..name("proxy") };
        assert!(inherited.listener(&elsewhere).is_none(), "the configuration wants another address");
        let sign = inherited.into_ready_signal();
        assert!(sign.send());
        assert!(!sign.send(), "it is given once");
        wait_until_ready(&old, Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn the_end_of_the_new_process_is_the_end_of_the_line() {
        let (old, new) = UnixStream::pair().unwrap();
        drop(new);
        let error = wait_until_ready(&old, Duration::from_secs(5)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn patience_with_the_new_process_has_an_end() {
        let (old, _new) = UnixStream::pair().unwrap();
        assert!(wait_until_ready(&old, Duration::from_millis(10)).is_err());
    }

    #[test]
    fn a_process_without_a_predecessor_inherits_nothing() {
        let mut inherited = InheritedSockets::take().unwrap();
        assert!(inherited.listener(&name("proxy")).is_none());
        assert!(!inherited.into_ready_signal().send());
    }
}
