//! A client that reads the protocol word for word.

use crate::daemon::patience;
use hv_shmem::backing::Backing;
use hv_shmem::backing::MappedMem;
use hv_shmem::backing::SharedPart;
use hv_shmem::backing::View;
use hv_shmem::doorbell::Bell as _;
use hv_shmem::doorbell::Doorbell as _;
use hv_shmem::doorbell::EventFd;
use hv_shmem::doorbell::Heard;
use hv_shmem::layout::PeerId;
use rustix::net::RecvAncillaryBuffer;
use rustix::net::RecvAncillaryMessage;
use rustix::net::RecvFlags;
use std::collections::BTreeMap;
use std::io;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// One peer of the region, by the compatibility socket.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) socket: UnixStream,
    pub(crate) id: i64,
    pub(crate) memory: OwnedFd,
    pub(crate) own: Vec<EventFd>,
    pub(crate) others: BTreeMap<i64, Vec<EventFd>>,
}

/// A message: number and fd.
pub(crate) fn receive(socket: &UnixStream) -> io::Result<(i64, Option<OwnedFd>)> {
    let mut bytes = [0; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    assert_eq!(got.bytes, 8, "messages come whole");
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            fds.extend(passed);
        }
    }
    assert!(fds.len() <= 1, "at most one fd a message");
    Ok((i64::from_le_bytes(bytes), fds.pop()))
}

impl Client {
    /// Joins a region whose peers have this many vectors.
    pub(crate) fn join(path: &Path, vectors: usize) -> io::Result<Self> {
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(patience()))?;
        let (version, none) = receive(&socket)?;
        assert!((version, none.is_none()) == (0, true), "version 0");
        let (id, none) = receive(&socket)?;
        assert!(none.is_none() && (0..=65535).contains(&id), "id {id}");
        let (minus_one, memory) = receive(&socket)?;
        assert_eq!(minus_one, -1);
        let mut this = Self {
            socket,
            id,
            memory: memory.expect("the memory comes with -1"),
            own: Vec::new(),
            others: BTreeMap::new(),
        };
        while this.own.len() < vectors {
            this.hear()?;
        }
        Ok(this)
    }

    /// Takes one more message in; who it was about.
    pub(crate) fn hear(&mut self) -> io::Result<i64> {
        let (id, fd) = receive(&self.socket)?;
        match fd.map(EventFd::from) {
            Some(bell) if id == self.id => self.own.push(bell),
            Some(bell) => self.others.entry(id).or_default().push(bell),
            None => assert!(
                self.others.remove(&id).is_some(),
                "{id} is gone, and never was"
            ),
        }
        Ok(id)
    }

    /// Reads until this holds.
    pub(crate) fn hear_until(&mut self, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            self.hear().expect("the daemon has more to say");
        }
    }

    pub(crate) fn ring(&self, peer: i64, vector: usize) {
        self.others[&peer][vector].ring().expect("rings");
    }

    pub(crate) fn was_rung(&self, vector: usize) -> bool {
        let none = Some(Duration::ZERO);
        self.own[vector].wait(none).expect("a bell") == Heard::Rang
    }

    /// The region as a host program maps it.
    pub(crate) fn map(&self) -> MappedMem {
        let part = SharedPart {
            part: None,
            writable: true,
            fd: self.memory.try_clone().expect("an fd"),
        };
        let me = PeerId(u16::try_from(self.id).expect("an id"));
        let backing = Backing::from_shared(vec![part]).expect("a Portal region");
        backing.map(View::peer(me)).expect("maps").mem()
    }
}
