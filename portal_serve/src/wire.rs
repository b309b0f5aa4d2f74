//! Messages onto a Unix stream socket.

#![expect(unsafe_code, reason = "one ioctl that rustix has no name for")]

use rustix::io::Errno;
use rustix::ioctl::Getter;
use rustix::net::SendAncillaryBuffer;
use rustix::net::SendAncillaryMessage;
use rustix::net::SendFlags;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;

/// Sends 8 bytes, with one fd or none, without waiting. Each call is a message
/// of its own: a reader of a Unix stream is never given the fds of two at once.
///
/// # Errors
/// The kernel's; [`Errno::AGAIN`] when the buffer is full. The bytes go whole or
/// not at all: the kernel never splits so few.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: [u8; 8],
    fd: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.as_slice();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::MSGSIZE);
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, flags)?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(Errno::MSGSIZE)
    }
}

/// Whether the other end has read everything that was sent.
pub(crate) fn is_read(socket: impl AsFd) -> bool {
    const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;
    // SAFETY: SIOCOUTQ of a Unix socket writes one `int` (unix(7), "Ioctls").
    let unread = unsafe {
        let getter = Getter::<SIOCOUTQ, std::ffi::c_int>::new();
        rustix::ioctl::ioctl(socket, getter)
    };
    unread == Ok(0)
}
