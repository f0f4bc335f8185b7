//! How listening sockets go from a running process to the one that takes its place.
//!
//! The standard input of the new process is one end of a Unix socket pair. The old one sends the sockets
//! over it as `SCM_RIGHTS` (unix(7)), each with its service and its address as configured, and with them the end
//! of a second pair, on which both talk about sessions from then on; the new one writes a byte when it serves. So no descriptor is inherited by number, nothing has to be kept open across
//! `exec`, and an end of the new process, however it comes about, is an end of the line.

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

/// Tells the new process that its standard input is such a line; the value is the id of the old one, so
/// that a descendant which inherits the variable does not believe it.
pub(super) const VARIABLE: &str = "ELIDA_HANDOVER";

/// What the new process writes when it serves.
const READY: u8 = b'R';

/// The most sockets in one message; the kernel's own limit is 253.
const SOCKETS_MAX: usize = 16;

/// The name of the line on which both processes talk about sessions.
const SESSIONS: &str = "sessions";

/// The longest list of names, in bytes.
const NAMES_MAX: usize = 4096;

/// What a socket is for.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Name {
    /// `proxy` or `control`.
    pub(super) service: String,
    /// As configured, so that port 0 is found again.
    pub(super) address: SocketAddr,
}

/// Sends the sockets and the other end of the line about sessions; they stay open here as well.
///
/// # Errors
/// The system refuses, or there are too many of them.
pub(super) fn give(
    line: &UnixStream,
    sockets: &[(Name, TcpListener)],
    sessions: &UnixStream,
) -> io::Result<()> {
    let talk = Name { service: SESSIONS.to_owned(), address: ([0, 0, 0, 0], 0).into() };
    let names: Vec<&Name> = sockets.iter().map(|(name, _)| name).chain([&talk]).collect();
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

/// What [`give`] has sent.
fn receive(line: &UnixStream) -> io::Result<Vec<(Name, OwnedFd)>> {
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
    let names: Vec<Name> = serde_json::from_slice(&text[..received.bytes])?;
    if names.len() != descriptors.len() {
        return Err(io::Error::other("names and sockets do not match"));
    }
    Ok(names.into_iter().zip(descriptors).collect())
}

/// Waits until the new process serves.
///
/// # Errors
/// It ended before, or let `limit` pass.
pub(super) fn wait_until_ready(mut line: &UnixStream, limit: Duration) -> io::Result<()> {
    line.set_read_timeout(Some(limit))?;
    let mut byte = [0];
    line.read_exact(&mut byte)
}

/// What this process has from the one before it; nothing, when there was none.
#[derive(Default)]
pub(super) struct Inherited {
    sockets: Vec<(Name, OwnedFd)>,
    line: Option<UnixStream>,
}

impl Inherited {
    /// Takes the sockets that come over the standard input, if that is a line to an old process.
    ///
    /// # Errors
    /// The line is not what it should be.
    pub(super) fn take() -> io::Result<Self> {
        let old = env::var(VARIABLE).ok().and_then(|id| id.parse::<u32>().ok());
        if old != Some(parent_id()) {
            return Ok(Self::default());
        }
        let line = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        // The line must end with this process' own copy of it.
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        let sockets = receive(&line)?;
        Ok(Self { sockets, line: Some(line) })
    }

    /// The socket of a service, if it listens where the configuration says.
    pub(super) fn listener(&mut self, name: &Name) -> Option<TcpListener> {
        let index = self.sockets.iter().position(|(known, _)| known == name)?;
        Some(TcpListener::from(self.sockets.swap_remove(index).1))
    }

    /// The line on which the old process talks about sessions; `None` when it is a version that does not.
    pub(super) fn sessions(&mut self) -> Option<UnixStream> {
        let index = self.sockets.iter().position(|(known, _)| known.service == SESSIONS)?;
        Some(UnixStream::from(self.sockets.swap_remove(index).1))
    }

    /// The way to say that this process serves. Sockets that nobody asked for are closed.
    pub(super) fn into_sign(self) -> ReadySign {
        ReadySign(Mutex::new(self.line))
    }
}

/// How the old process learns that it may go.
pub(super) struct ReadySign(Mutex<Option<UnixStream>>);

impl ReadySign {
    /// Says it, once. False when there is no old process to be told.
    pub(super) fn give(&self) -> bool {
        let line = self.0.lock().take();
        line.is_some_and(|mut line| line.write_all(&[READY]).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(service: &str) -> Name {
        Name { service: service.to_owned(), address: ([127, 0, 0, 1], 0).into() }
    }

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    #[test]
    fn sockets_arrive_with_their_names() {
        let (old, new) = UnixStream::pair().unwrap();
        let sockets = [(name("proxy"), listener()), (name("control"), listener())];
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        give(&old, &sockets, &theirs).unwrap();
        let mut inherited = Inherited { sockets: receive(&new).unwrap(), line: Some(new) };
        let control = inherited.listener(&name("control")).unwrap();
        assert_eq!(control.local_addr().unwrap(), sockets[1].1.local_addr().unwrap());
        assert!(inherited.listener(&name("control")).is_none(), "it is taken once");
        inherited.sessions().unwrap().write_all(b"x").unwrap();
        ours.read_exact(&mut [0]).unwrap();
        assert!(inherited.sessions().is_none());
        let elsewhere = Name { address: ([127, 0, 0, 1], 1).into(), ..name("proxy") };
        assert!(inherited.listener(&elsewhere).is_none(), "the configuration wants another address");
        let sign = inherited.into_sign();
        assert!(sign.give());
        assert!(!sign.give(), "it is given once");
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
        let mut inherited = Inherited::take().unwrap();
        assert!(inherited.listener(&name("proxy")).is_none());
        assert!(!inherited.into_sign().give());
    }
}
