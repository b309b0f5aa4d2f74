//! One message over a Unix socket of type `SOCK_SEQPACKET` (`unix(7)`), with its
//! descriptors (`SCM_RIGHTS`).
//!
//! Distrusted: the other end. A message is received whole or is an error; what comes
//! beside it that was not expected is closed.

use crate::FDS_MAX;
use crate::MESSAGE_MAX;
use rustix::io::Errno;
use rustix::net::RecvAncillaryBuffer;
use rustix::net::RecvAncillaryMessage;
use rustix::net::RecvFlags;
use rustix::net::ReturnFlags;
use rustix::net::SendAncillaryBuffer;
use rustix::net::SendAncillaryMessage;
use rustix::net::SendFlags;
use std::io::IoSlice;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

/// Sends one message. With `flags` [`SendFlags::DONTWAIT`] it does not wait for room.
///
/// # Errors
/// The kernel's; [`Errno::AGAIN`] when there is no room, [`Errno::MSGSIZE`] for more
/// than [`FDS_MAX`] descriptors. The message goes whole or not at all.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::MSGSIZE);
    }
    let flags = flags | SendFlags::NOSIGNAL;
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(Errno::MSGSIZE)
    }
}

/// A message that was received.
#[derive(Debug)]
pub struct Received {
    /// How many of the buffer's bytes it has; more than [`MESSAGE_MAX`] when it was
    /// too long. 0 at the end of the connection.
    pub len: usize,
    /// Its descriptors.
    pub fds: Vec<OwnedFd>,
    /// Descriptors that belong to it did not arrive: there were more than
    /// [`FDS_MAX`], or this process may open no more.
    pub fds_missing: bool,
}

/// A buffer for [`receive`]: one byte more than a message may have, so that a longer
/// one is seen to be longer.
pub type Buffer = [u8; MESSAGE_MAX + 1];

/// Receives one message.
///
/// An end that hangs up with something unread resets the connection, and Linux tells of
/// the reset once, before what that end had sent: a refusal would be lost. So a reset is
/// read past: what was sent comes first, then the end of the connection.
///
/// # Errors
/// The kernel's.
pub fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut Buffer,
    flags: RecvFlags,
) -> Result<Received, Errno> {
    match receive_once(socket, buffer, flags) {
        Err(Errno::CONNRESET) => receive_once(socket, buffer, flags),
        received => received,
    }
}

fn receive_once(
    socket: BorrowedFd<'_>,
    buffer: &mut Buffer,
    flags: RecvFlags,
) -> Result<Received, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(buffer)],
        &mut control,
        flags | RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            fds.extend(passed);
        }
    }
    Ok(Received {
        len: got.bytes,
        fds,
        fds_missing: got.flags.contains(ReturnFlags::CTRUNC),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::AddressFamily;
    use rustix::net::SocketFlags;
    use rustix::net::SocketType;
    use std::os::fd::AsFd;

    #[test]
    fn what_was_said_before_hanging_up_is_heard() {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (ours, theirs) =
            rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None).expect("sockets");
        send(ours.as_fd(), b"hello", &[], SendFlags::empty()).expect("room");
        send(theirs.as_fd(), b"refused", &[], SendFlags::empty()).expect("room");
        // With our greeting unread: a reset.
        drop(theirs);
        let mut buffer = [0; MESSAGE_MAX + 1];
        let mut hear = || receive(ours.as_fd(), &mut buffer, RecvFlags::empty()).map(|r| r.len);
        assert_eq!(hear(), Ok("refused".len()));
        assert_eq!(hear(), Ok(0));
    }
}
