//! Memory that a service manager holds while the daemon is restarted.
//!
//! Specification: `sd_notify(3)`, `FDSTORE=1`, and the environment variable `FDSTORE`,
//! which says how many descriptors may be stored. They come back with the passed
//! sockets, under the names that are given here.

use crate::ServeError;
use hv_shmem::backing::Part;
use hv_shmem::layout::PeerId;
use hv_shmem::name::Name;
use rustix::net::AddressFamily;
use rustix::net::SendAncillaryBuffer;
use rustix::net::SendAncillaryMessage;
use rustix::net::SendFlags;
use rustix::net::SocketAddrUnix;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;

/// Whether there is a service manager that stores descriptors.
pub(crate) fn is_there() -> bool {
    let stores = std::env::var("FDSTORE").is_ok_and(|n| n.parse().is_ok_and(|n: u32| n > 0));
    stores && std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// A piece in names: of files, and of stored descriptors.
pub(crate) fn word(piece: Part) -> String {
    match piece {
        Part::HostPages => "host".to_owned(),
        Part::Common => "common".to_owned(),
        Part::Section(peer) => peer.to_string(),
        Part::Tail => "tail".to_owned(),
    }
}

fn label(region: &Name, piece: Option<Part>) -> String {
    let piece = piece.map_or_else(|| "all".to_owned(), word);
    // A colon separates names, and cannot be in one; it can be in a region's.
    format!("memory/{}/{piece}", region.as_str().replace(':', "%"))
}

/// The piece that a stored descriptor of this name is, of this region.
pub(crate) fn piece_of(name: &str, region: &Name) -> Option<Option<Part>> {
    let prefix = label(region, None);
    let piece = name.strip_prefix(prefix.strip_suffix("all")?)?;
    Some(match piece {
        "all" => None,
        "host" => Some(Part::HostPages),
        "common" => Some(Part::Common),
        peer => Some(Part::Section(PeerId(peer.parse().ok()?))),
    })
}

/// Whether a passed descriptor is one that was stored.
pub(crate) fn is_stored(name: &str) -> bool {
    name.starts_with("memory/")
}

/// Gives a piece to the service manager to hold.
pub(crate) fn keep(region: &Name, piece: Option<Part>, fd: &OwnedFd) -> Result<(), ServeError> {
    let fail = ServeError::os("store memory with the service manager");
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let address = match path.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddrUnix::new_abstract_name(name),
        _ => SocketAddrUnix::new(path.as_os_str()),
    };
    let address = address.map_err(&fail)?;
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)
        .map_err(&fail)?;
    let text = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={}", label(region, piece));
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let text = [IoSlice::new(text.as_bytes())];
    let flags = SendFlags::NOSIGNAL;
    rustix::net::sendmsg_addr(&socket, &address, &text, &mut control, flags).map_err(&fail)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_pieces() {
        let region = Name::new("la:ke").expect("a name");
        for piece in [
            None,
            Some(Part::HostPages),
            Some(Part::Common),
            Some(Part::Section(PeerId(17))),
        ] {
            let label = label(&region, piece);
            assert!(!label.contains(':') && is_stored(&label), "{label}");
            assert_eq!(piece_of(&label, &region), Some(piece));
            assert_eq!(piece_of(&label, &Name::new("sea").expect("a name")), None);
        }
        assert!(!is_stored("lake"));
    }
}
