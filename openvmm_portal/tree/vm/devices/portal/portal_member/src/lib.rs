// Copyright (c) Microsoft Corporation.
// Licensed under the MIT License.

//! A VM's place in a region: which peer it is, what memory it may map, whom it
//! can ring and on what it is rung, and what it is told of the others.
//!
//! The switchboard is asked on a thread of this crate's own (`link`): it may
//! be slow, or away, and a device must not wait for it. What the thread hears
//! comes through a channel ([`Member::poll`]). Rings and data do not pass the
//! switchboard, so they go on while it is away.
//!
//! The switchboard is trusted; the other peers are not, and nothing of what
//! they write is looked at here.

#![forbid(unsafe_code)]
#![cfg(target_os = "linux")]

mod link;

use anyhow::Context as _;
use futures::StreamExt as _;
use guestmem::MappedMemoryRegion;
use hv_shmem::layout::Layout;
use inspect::Inspect;
use link::Link;
use link::Told;
use pal_async::driver::Driver;
use pal_async::wait::PolledWait;
use pal_event::Event;
use portal_resources::RegionAccess;
use portal_resources::RegionSource;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

/// A run of the region's bytes with a descriptor of its own.
#[derive(Debug)]
struct Piece {
    range: Range<u64>,
    memory: File,
}

/// Something about another peer, or about the switchboard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// A peer is there.
    Joined {
        /// Its id.
        peer: u16,
        /// Number of vectors that it can be rung on.
        vectors: u16,
    },
    /// Its part of the region can be used.
    Ready {
        /// Its id.
        peer: u16,
    },
    /// It will leave.
    Quiescing {
        /// Its id.
        peer: u16,
    },
    /// It hears on other events now.
    Bells {
        /// Its id.
        peer: u16,
    },
    /// It is gone.
    Gone {
        /// Its id.
        peer: u16,
    },
}

#[derive(Inspect)]
struct Neighbour {
    state: &'static str,
    #[inspect(rename = "vectors", with = "Vec::len")]
    bells: Vec<Event>,
}

/// The place.
#[derive(Inspect)]
pub struct Member {
    #[inspect(display)]
    region: String,
    peer: u16,
    epoch: u32,
    #[inspect(hex)]
    region_len: u64,
    #[inspect(hex, iter_by_index)]
    uuid: [u8; 16],
    /// Where the region's parts are; a file has none.
    #[inspect(skip)]
    layout: Option<Layout>,
    /// Descriptors behind it: with one a part, other peers' parts are open for
    /// reading only.
    #[inspect(with = "Vec::len")]
    pieces: Vec<Piece>,
    #[inspect(iter_by_key)]
    peers: BTreeMap<u16, Neighbour>,
    #[inspect(skip)]
    own: Vec<Event>,
    /// Events on which peers that know no others ring the own vectors.
    #[inspect(rename = "vectors_rung_by_hop", with = "Vec::len")]
    passed_on: Vec<Event>,
    #[inspect(skip)]
    waits: Vec<PolledWait<Event>>,
    #[inspect(skip)]
    link: Option<Link>,
    attached: bool,
    /// Why the place is lost.
    lost: Option<String>,
}

impl Member {
    /// Takes a place with `vectors` vectors in a region.
    ///
    /// # Errors
    /// When there is no such switchboard, region or file, or it is not for us.
    pub fn join(source: &RegionSource, access: RegionAccess, vectors: u16) -> anyhow::Result<Self> {
        match source {
            RegionSource::Switchboard { socket, region } => {
                Self::of_switchboard(socket, region, access, vectors)
                    .with_context(|| format!("region {region} of {socket}"))
            }
            RegionSource::File { path } => {
                anyhow::ensure!(
                    vectors == 0,
                    "{path}: a region from a file has no doorbells"
                );
                Self::of_file(path, access)
            }
        }
    }

    fn of_file(path: &str, access: RegionAccess) -> anyhow::Result<Self> {
        let memory = fs_err::OpenOptions::new()
            .read(true)
            .write(access == RegionAccess::ReadWrite)
            .open(path)?;
        let region_len = memory.metadata()?.len();
        Ok(Self {
            region: path.to_owned(),
            peer: 0,
            epoch: 0,
            region_len,
            uuid: [0; 16],
            layout: None,
            pieces: vec![Piece {
                range: 0..region_len,
                memory: memory.into(),
            }],
            peers: BTreeMap::new(),
            own: Vec::new(),
            passed_on: Vec::new(),
            waits: Vec::new(),
            link: None,
            attached: false,
            lost: None,
        })
    }

    fn of_switchboard(
        socket: &str,
        region: &str,
        access: RegionAccess,
        vectors: u16,
    ) -> anyhow::Result<Self> {
        let own: Vec<Event> = (0..vectors).map(|_| Event::new()).collect();
        let options = link::options(region, access, &own)?;
        let peer = portal_client::Connection::open(socket)?.join(&options)?;
        let backing = peer.backing();
        let layout = backing.layout().clone();
        let view = peer.view();
        let mut pieces = Vec::new();
        for part in backing.held() {
            let range = part.map_or(0..layout.size, |part| backing.range(part));
            let write = backing
                .parts()
                .any(|p| part.is_none_or(|q| p == q) && view.writes(p));
            let memory = backing.share_piece(part, write)?.into();
            pieces.push(Piece { range, memory });
        }
        let clone = |fd: &std::sync::Arc<_>| link::event(fd);
        Ok(Self {
            region: region.to_owned(),
            peer: peer.id().0,
            epoch: peer.epoch(),
            region_len: layout.size,
            uuid: peer.region_uuid().into_bytes(),
            layout: Some(layout),
            pieces,
            peers: BTreeMap::new(),
            own,
            passed_on: peer
                .passed_on()
                .iter()
                .map(clone)
                .collect::<Result<_, _>>()?,
            waits: Vec::new(),
            link: Some(Link::start(socket, options, peer)?),
            attached: true,
            lost: None,
        })
    }

    /// The own peer id.
    pub fn peer(&self) -> u16 {
        self.peer
    }

    /// Length of the region in bytes.
    pub fn region_len(&self) -> u64 {
        self.region_len
    }

    /// Identity of the region; zeros when it is a file.
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// Where the region's parts are: who writes what. None for a file.
    pub fn layout(&self) -> Option<&Layout> {
        self.layout.as_ref()
    }

    /// Maps the region's bytes in `window` into `backing`, whose first byte is
    /// the window's.
    ///
    /// # Errors
    /// When the host cannot.
    pub fn map_window(
        &self,
        window: Range<u64>,
        writable: bool,
        backing: &dyn MappedMemoryRegion,
    ) -> anyhow::Result<()> {
        for piece in &self.pieces {
            let start = piece.range.start.max(window.start);
            let end = piece.range.end.min(window.end);
            if start >= end {
                continue;
            }
            backing
                .map(
                    (start - window.start) as usize,
                    &piece.memory,
                    start - piece.range.start,
                    (end - start) as usize,
                    writable,
                )
                .with_context(|| {
                    format!("cannot map bytes {start:#x} to {end:#x} of the region")
                })?;
        }
        Ok(())
    }

    /// The region's one file, if it is one.
    pub fn file(&self) -> Option<&File> {
        match self.pieces.as_slice() {
            [piece] if piece.range.end == self.region_len => Some(&piece.memory),
            _ => None,
        }
    }

    /// The event that `vector` of `peer` hears.
    pub fn bell(&self, peer: u16, vector: u16) -> Option<&Event> {
        // A peer may ring itself.
        let bells = match self.peers.get(&peer) {
            _ if peer == self.peer => &self.own,
            neighbour => &neighbour?.bells,
        };
        bells.get(usize::from(vector))
    }

    /// The events that the own vectors hear, by vector.
    pub fn own_events(&self) -> &[Event] {
        &self.own
    }

    /// The own vectors hear these events from now on.
    pub fn set_own_events(&mut self, events: Vec<Event>) {
        self.tell(link::Command::Bells(events.clone()));
        self.own = events;
    }

    /// The VM runs: others may use what it puts into its part.
    pub fn ready(&mut self) {
        self.tell(link::Command::Ready);
    }

    /// The guest begins anew, with the same peer id: what the others knew of it
    /// is over.
    pub fn begin_anew(&mut self) {
        self.tell(link::Command::Rejoin);
    }

    /// The own word in the region's state table.
    pub fn publish_state(&mut self, state: u32) {
        self.tell(link::Command::State(state));
    }

    fn tell(&self, command: link::Command) {
        if let Some(link) = &self.link {
            link.tell(command);
        }
    }

    /// What happened next.
    pub fn poll(&mut self, driver: &dyn Driver, cx: &mut Context<'_>) -> Poll<Change> {
        self.poll_passed_on(driver, cx);
        loop {
            let Some(link) = &mut self.link else {
                return Poll::Pending;
            };
            let Some(told) = ready!(link.told.poll_next_unpin(cx)) else {
                self.link = None;
                return Poll::Pending;
            };
            if let Some(change) = self.take_in(told) {
                return Poll::Ready(change);
            }
        }
    }

    fn take_in(&mut self, told: Told) -> Option<Change> {
        match told {
            Told::Joined { peer, bells } => {
                let vectors = bells.len() as u16;
                let state = "joining";
                self.peers.insert(peer, Neighbour { state, bells });
                Some(Change::Joined { peer, vectors })
            }
            Told::Ready { peer } => {
                self.peers.get_mut(&peer)?.state = "ready";
                Some(Change::Ready { peer })
            }
            Told::Quiescing { peer } => {
                self.peers.get_mut(&peer)?.state = "quiescing";
                Some(Change::Quiescing { peer })
            }
            Told::Bells { peer, bells } => {
                self.peers.get_mut(&peer)?.bells = bells;
                Some(Change::Bells { peer })
            }
            Told::Gone { peer } => {
                self.peers.remove(&peer)?;
                Some(Change::Gone { peer })
            }
            Told::Attached(attached) => {
                self.attached = attached;
                None
            }
            Told::Began { epoch } => {
                self.epoch = epoch;
                None
            }
            Told::Lost(why) => {
                tracing::error!(region = %self.region, why, "place in the region lost");
                self.lost = Some(why);
                None
            }
        }
    }

    /// What peers of QEMU's protocol ring goes on to the own events.
    fn poll_passed_on(&mut self, driver: &dyn Driver, cx: &mut Context<'_>) {
        if self.waits.len() != self.passed_on.len() {
            let wait = |event: &Event| PolledWait::new(driver, event.clone());
            match self.passed_on.iter().map(wait).collect() {
                Ok(waits) => self.waits = waits,
                Err(error) => {
                    self.passed_on.clear();
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "cannot wait for doorbells of QEMU peers"
                    );
                }
            }
        }
        for (wait, own) in self.waits.iter_mut().zip(&self.own) {
            // One at a time: the waker is armed by the poll that finds nothing.
            if wait.poll_wait(cx).is_ready() {
                own.signal();
                if wait.poll_wait(cx).is_ready() {
                    own.signal();
                    cx.waker().wake_by_ref();
                }
            }
        }
    }
}
