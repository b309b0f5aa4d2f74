//! One life of one peer: its place, its memory, its bells, its neighbours, and the
//! way back when the switchboard was restarted.

use crate::ClientError;
use crate::Connection;
use crate::connection::Link;
use crate::connection::events;
use crate::connection::hello;
use crate::connection::unexpected;
use hv_shmem::backing::Backing;
use hv_shmem::backing::MappedMem;
use hv_shmem::backing::Mapping;
use hv_shmem::backing::View;
use hv_shmem::backing::WritableSections;
use hv_shmem::doorbell::Doorbell as _;
use hv_shmem::doorbell::EventFd;
use hv_shmem::layout::PeerId;
use hv_shmem::name::Name;
use hv_shmem::name::NameError;
use hv_shmem::own_section::OwnSection;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::section::SectionConfig;
use portal_protocol::Admitted;
use portal_protocol::Join;
use portal_protocol::Reattach;
use portal_protocol::RefusalCode;
use portal_protocol::Reply;
use portal_protocol::Request;
use portal_protocol::session;
use portal_protocol::session::Neighbour;
use portal_protocol::session::Session;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

/// First and longest pause between two tries to reconnect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// What a peer hears on.
#[derive(Clone, Debug)]
pub enum Bells {
    /// So many events that the switchboard makes. In a region that QEMU may join
    /// they belong to the id, so that QEMU rings them without a hop.
    Served(u16),
    /// One's own, one a vector: for hosts whose interrupt routes take only events
    /// that they made themselves.
    Own(Vec<Arc<EventFd>>),
}

/// How to join.
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// The region.
    pub region: Name,
    /// The peer's name; no two live peers of a region have the same.
    pub name: Name,
    /// Partition or host process.
    pub kind: PeerKind,
    /// What it wants to do.
    pub rights: Rights,
    /// The id that it has to have, or any.
    pub id: Option<PeerId>,
    /// What it hears on.
    pub bells: Bells,
}

impl JoinOptions {
    /// A host process with every right, any id, no vectors.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn host_process(region: &str, name: &str) -> Result<Self, NameError> {
        Ok(Self {
            region: Name::new(region)?,
            name: Name::new(name)?,
            kind: PeerKind::HostProcess,
            rights: Rights::ALL,
            id: None,
            bells: Bells::Served(0),
        })
    }

    /// The same as a partition.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn partition(region: &str, name: &str) -> Result<Self, NameError> {
        Ok(Self {
            kind: PeerKind::Partition,
            ..Self::host_process(region, name)?
        })
    }

    /// Hears on so many events, which the switchboard makes.
    #[must_use]
    pub fn vectors(mut self, vectors: u16) -> Self {
        self.bells = Bells::Served(vectors);
        self
    }

    /// Hears on events of one's own.
    #[must_use]
    pub fn own_bells(mut self, bells: Vec<Arc<EventFd>>) -> Self {
        self.bells = Bells::Own(bells);
        self
    }

    /// Wants no more than these rights.
    #[must_use]
    pub fn rights(mut self, rights: Rights) -> Self {
        self.rights = rights;
        self
    }

    /// Has to have this id.
    #[must_use]
    pub fn id(mut self, id: Option<PeerId>) -> Self {
        self.id = id;
        self
    }
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something about another peer.
    Peer(session::Event),
    /// The switchboard is gone. Memory and doorbells go on; of peers that come or
    /// go nothing is heard until [`Event::Attached`].
    Detached,
    /// It is back, and this peer is the same as before.
    Attached,
}

/// One life of one peer. Dropping it is leaving.
#[derive(Debug)]
pub struct Peer {
    path: PathBuf,
    /// `None` while the switchboard is gone.
    link: Option<Link>,
    region: Name,
    admitted: Admitted,
    backing: Arc<Backing>,
    bells: Vec<Arc<EventFd>>,
    passed_on: Vec<Arc<EventFd>>,
    session: Session<Arc<EventFd>>,
    /// Not told to the program yet.
    untold: Option<Event>,
    /// Its word in the state table, if it has one.
    published: Option<u32>,
    /// Ready or quiescing, which the switchboard may not have heard.
    unsaid: Option<Request>,
    next_try: Instant,
    pause: Duration,
}

impl Peer {
    pub(crate) fn join(connection: Connection, options: &JoinOptions) -> Result<Self, ClientError> {
        let Connection { mut link, path } = connection;
        let (vectors, own) = match &options.bells {
            Bells::Served(vectors) => (*vectors, None),
            Bells::Own(bells) => (u16::try_from(bells.len()).unwrap_or(u16::MAX), Some(bells)),
        };
        let join = Join {
            region: options.region,
            name: options.name,
            kind: options.kind,
            rights: options.rights,
            id: options.id,
            vectors,
            own: own.is_some(),
        };
        let fds: Vec<_> = own.into_iter().flatten().map(|bell| bell.as_fd()).collect();
        link.ask(&Request::Join(join), &fds)?;
        let (admitted, given) = match link.answer()? {
            (Reply::Admitted(admitted), fds) => (admitted, events(fds)),
            (other, _) => return Err(unexpected(&other)),
        };
        let (bells, passed_on) = match own {
            Some(own) => (own.clone(), given),
            None => (given, Vec::new()),
        };
        let parts = link.memory(admitted.pieces)?;
        let mut this = Self {
            path,
            link: Some(link),
            region: options.region,
            admitted,
            backing: Arc::new(Backing::from_shared(parts)?),
            bells,
            passed_on,
            session: Session::default(),
            untold: None,
            published: None,
            unsaid: None,
            next_try: Instant::now(),
            pause: BACKOFF.0,
        };
        this.catch_up()?;
        Ok(this)
    }

    /// Reads until everybody who is there has been told.
    fn catch_up(&mut self) -> Result<(), ClientError> {
        while !self.session.is_current() {
            let link = self.link.as_mut().ok_or(ClientError::Lost)?;
            let (reply, fds) = link.answer()?;
            if !self.session.hear(&reply, events(fds)) {
                return Err(unexpected(&reply));
            }
        }
        Ok(())
    }

    /// Its id.
    pub fn id(&self) -> PeerId {
        self.admitted.peer
    }

    /// The epoch that it lives under.
    pub fn epoch(&self) -> u32 {
        self.admitted.epoch
    }

    /// What it may do.
    pub fn rights(&self) -> Rights {
        self.admitted.rights
    }

    /// Name of the region.
    pub fn region_name(&self) -> Name {
        self.region
    }

    /// Identity of the region.
    pub fn region_uuid(&self) -> uuid::Uuid {
        self.admitted.uuid
    }

    /// The region's memory, as far as this peer may have it.
    pub fn backing(&self) -> &Arc<Backing> {
        &self.backing
    }

    /// What it hears on, vector 0 first.
    pub fn bells(&self) -> &[Arc<EventFd>] {
        &self.bells
    }

    /// Events on which peers of the compatibility socket ring this one, vector 0
    /// first. Empty unless it brought its own events to a region that QEMU may
    /// join: whoever did passes on what rings here.
    pub fn passed_on(&self) -> &[Arc<EventFd>] {
        &self.passed_on
    }

    /// The other peers, as far as events have told of them.
    pub fn neighbours(&self) -> &BTreeMap<PeerId, Neighbour<Arc<EventFd>>> {
        self.session.neighbours()
    }

    /// The bell of a vector of another peer; `None` while there is none to ring.
    pub fn bell(&self, peer: PeerId, vector: u16) -> Option<Arc<EventFd>> {
        let neighbour = self.session.neighbours().get(&peer)?;
        neighbour.bells.get(usize::from(vector)).cloned()
    }

    /// Rings another peer. `false` when there is none to ring.
    pub fn ring(&self, peer: PeerId, vector: u16) -> bool {
        self.bell(peer, vector)
            .is_some_and(|bell| bell.ring().is_ok())
    }

    /// What it may write.
    pub fn view(&self) -> View {
        let rights = self.admitted.rights;
        View {
            host_pages: false,
            common: rights.has(Rights::WRITE_COMMON),
            sections: if rights.has(Rights::WRITE_OWN) {
                WritableSections::Own(self.id())
            } else {
                WritableSections::None
            },
        }
    }

    /// Maps the region: writable where this peer writes.
    ///
    /// # Errors
    /// [`ClientError::Memory`].
    pub fn map(&self) -> Result<Mapping, ClientError> {
        Ok(self.backing.map(self.view())?)
    }

    /// Attaches to the region.
    ///
    /// # Errors
    /// [`ClientError::Memory`], [`ClientError::Region`].
    pub fn region(&self) -> Result<PortalRegion<MappedMem>, ClientError> {
        let options = AttachOptions {
            read_only: !self.admitted.rights.has(Rights::WRITE_OWN),
            expect: Some(self.admitted.uuid),
        };
        Ok(PortalRegion::attach(self.map()?.mem(), options)?)
    }

    /// Formats its section and says that it is ready: rings, spans and an arena
    /// work from here on.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn section(&mut self, config: SectionConfig) -> Result<OwnSection<MappedMem>, ClientError> {
        let own = self.region()?.join(self.id(), self.epoch(), config)?;
        self.ready()?;
        Ok(own)
    }

    /// Says that its section is formatted (or that it ends its quiescing). While the
    /// switchboard is gone it is told when it is back.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ready(&mut self) -> Result<(), ClientError> {
        self.enter(Request::Ready)
    }

    /// Says that it takes no new work. While the switchboard is gone it is told when it
    /// is back.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn quiesce(&mut self) -> Result<(), ClientError> {
        self.enter(Request::Quiesce)
    }

    fn enter(&mut self, phase: Request) -> Result<(), ClientError> {
        let done = self.request(phase, &[]);
        self.unsaid = matches!(done, Err(ClientError::Lost)).then_some(phase);
        done
    }

    /// Leaves, and knows that the switchboard knows.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn leave(mut self) -> Result<(), ClientError> {
        self.say_leave()
    }

    pub(crate) fn say_leave(&mut self) -> Result<(), ClientError> {
        self.request(Request::Leave, &[])
    }

    /// Hears on these events from now on, as many as before: for hosts that can
    /// make the events of their interrupt routes only after they have joined.
    /// Those of [`Self::passed_on`] stay. While the switchboard is gone it is told
    /// when it is back.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn hear_on(&mut self, bells: Vec<Arc<EventFd>>) -> Result<(), ClientError> {
        let vectors = u16::try_from(bells.len()).unwrap_or(u16::MAX);
        let told = self.request(Request::HearOn { vectors }, &bells);
        match told {
            Ok(()) | Err(ClientError::Lost) => self.bells = bells,
            Err(_) => {}
        }
        told
    }

    /// Writes its word in the state table of ivshmem v2. While the switchboard is
    /// gone that is done when it is back.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn publish(&mut self, state: u32) -> Result<(), ClientError> {
        self.published = Some(state);
        self.request(Request::Publish { state }, &[])
    }

    fn request(&mut self, request: Request, bells: &[Arc<EventFd>]) -> Result<(), ClientError> {
        let done = self.try_request(request, bells);
        if matches!(done, Err(ClientError::Lost)) {
            self.detach();
        }
        done
    }

    fn try_request(&mut self, request: Request, bells: &[Arc<EventFd>]) -> Result<(), ClientError> {
        let link = self.link.as_mut().ok_or(ClientError::Lost)?;
        let fds: Vec<_> = bells.iter().map(|bell| bell.as_fd()).collect();
        link.ask(&request, &fds)?;
        loop {
            match link.answer()? {
                (Reply::Done, _) => return Ok(()),
                (reply, fds) => {
                    if !self.session.hear(&reply, events(fds)) {
                        return Err(unexpected(&reply));
                    }
                }
            }
        }
    }

    /// Waits for the next thing that happens; `None` when the time is up. While the
    /// switchboard is gone this tries to come back, with pauses that grow.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the switchboard does not know this peer any
    /// more: its life is over. Other errors than the switchboard's absence.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Option<Event>, ClientError> {
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        loop {
            if let Some(event) = self.untold.take() {
                return Ok(Some(event));
            }
            if let Some(event) = self.session.next_event() {
                return Ok(Some(Event::Peer(event)));
            }
            let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
            let Some(link) = self.link.as_mut() else {
                if !self.come_back(left)? && left.is_some_and(|left| left.is_zero()) {
                    return Ok(None);
                }
                continue;
            };
            match link.hear(left) {
                Ok(Some((reply, fds))) => {
                    if !self.session.hear(&reply, events(fds)) {
                        return Err(unexpected(&reply));
                    }
                }
                Ok(None) => return Ok(None),
                Err(ClientError::Lost) => self.detach(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the switchboard is there, as far as is known.
    pub fn is_attached(&self) -> bool {
        self.link.is_some()
    }

    fn detach(&mut self) {
        self.link = None;
        self.next_try = Instant::now();
        self.pause = BACKOFF.0;
        self.untold = Some(Event::Detached);
    }

    /// Pauses, then tries to reattach once. `false`: not yet.
    fn come_back(&mut self, left: Option<Duration>) -> Result<bool, ClientError> {
        let pause = self.next_try.saturating_duration_since(Instant::now());
        if left.is_some_and(|left| left < pause) {
            std::thread::sleep(left.unwrap_or_default());
            return Ok(false);
        }
        std::thread::sleep(pause);
        match self.reattach() {
            Ok(()) => Ok(true),
            Err(error) if error.is_passing() => {
                self.next_try = Instant::now() + self.pause;
                self.pause = (self.pause * 2).min(BACKOFF.1);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Tries once to be the same peer again at a switchboard that was restarted.
    /// [`Self::wait`] does this by itself.
    ///
    /// # Errors
    /// [`ClientError::Connect`] while nobody listens; [`ClientError::Refused`] when
    /// this life is over: the region was made anew, or its grace has passed.
    pub fn reattach(&mut self) -> Result<(), ClientError> {
        let mut link = Link::open(&self.path)?;
        link.ask(&hello(), &[])?;
        match link.answer()? {
            (Reply::Welcome { .. }, _) => {}
            (other, _) => return Err(unexpected(&other)),
        }
        let vectors = |bells: &Vec<_>| u16::try_from(bells.len()).unwrap_or(u16::MAX);
        let back = Reattach {
            region: self.region,
            uuid: self.admitted.uuid,
            peer: self.admitted.peer,
            epoch: self.admitted.epoch,
            token: self.admitted.token,
            vectors: vectors(&self.bells),
            passed_on: vectors(&self.passed_on),
        };
        let all = self.bells.iter().chain(&self.passed_on);
        let fds: Vec<_> = all.map(|bell| bell.as_fd()).collect();
        link.ask(&Request::Reattach(back), &fds)?;
        match link.answer()? {
            (Reply::Admitted(admitted), _) => self.admitted.token = admitted.token,
            (other, _) => return Err(unexpected(&other)),
        }
        self.session.reconnected();
        self.link = Some(link);
        self.catch_up()?;
        if let Some(state) = self.published {
            self.try_request(Request::Publish { state }, &[])?;
        }
        if let Some(phase) = self.unsaid {
            match self.try_request(phase, &[]) {
                // It did hear it, before it went.
                Err(ClientError::Refused(refusal)) if refusal.code == RefusalCode::Step => {}
                said => said?,
            }
            self.unsaid = None;
        }
        // Nobody was told that it was away: then it was not.
        self.untold = match self.untold {
            Some(Event::Detached) => None,
            _ => Some(Event::Attached),
        };
        Ok(())
    }
}

impl Peer {
    /// Readable when [`Self::wait`] has something to take in; `None` while the
    /// switchboard is gone. Another one after each [`Event::Attached`].
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(Link::as_fd)
    }
}
