// Copyright (c) Microsoft Corporation.
// Licensed under the MIT License.

//! The thread that talks to the switchboard.

use anyhow::Context as _;
use hv_shmem::doorbell::EventFd;
use hv_shmem::peers::Rights;
use pal_event::Event;
use portal_client::ClientError;
use portal_client::Connection;
use portal_client::JoinOptions;
use portal_client::Peer;
use portal_client::session;
use portal_resources::RegionAccess;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

/// How often a switchboard that is away is tried, and a place that could not be
/// taken again.
const RETRY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// What the thread is to do.
pub(crate) enum Command {
    Ready,
    Bells(Vec<Event>),
    State(u32),
    Rejoin,
}

/// What the thread has heard.
pub(crate) enum Told {
    Joined { peer: u16, bells: Vec<Event> },
    Ready { peer: u16 },
    Quiescing { peer: u16 },
    Bells { peer: u16, bells: Vec<Event> },
    Gone { peer: u16 },
    Attached(bool),
    Began { epoch: u32 },
    Lost(String),
}

/// The device's end. The thread ends when it is dropped, and so does the peer's
/// life.
pub(crate) struct Link {
    pub(crate) told: mesh::Receiver<Told>,
    commands: Option<mpsc::Sender<Command>>,
    wake: Event,
}

/// How to join, for a region, what may be done there, and what is heard on.
pub(crate) fn options(
    region: &str,
    access: RegionAccess,
    own: &[Event],
) -> anyhow::Result<JoinOptions> {
    // Peers have names, for people; no two of a region have the same.
    static DEVICES: AtomicU32 = AtomicU32::new(0);
    let device = DEVICES.fetch_add(1, Ordering::Relaxed);
    let name = format!("openvmm-{}-{device}", std::process::id());
    let rights = match access {
        RegionAccess::ReadOnly => Rights::READ.and(Rights::RING),
        RegionAccess::ReadWrite => Rights::ALL,
    };
    let options = JoinOptions::partition(region, &name).context("region name")?;
    Ok(options.rights(rights).own_bells(bells(own)))
}

fn bells(events: &[Event]) -> Vec<Arc<EventFd>> {
    let bell = |event: &Event| Arc::new(EventFd::from(OwnedFd::from(event.clone())));
    events.iter().map(bell).collect()
}

/// An event on the same descriptor.
pub(crate) fn event(fd: &Arc<EventFd>) -> std::io::Result<Event> {
    Ok(Event::from(fd.as_fd().try_clone_to_owned()?))
}

impl Link {
    pub(crate) fn start(socket: &str, options: JoinOptions, peer: Peer) -> anyhow::Result<Self> {
        let (tell, told) = mesh::channel();
        let (commands, from_device) = mpsc::channel();
        let wake = Event::new();
        let thread = Thread {
            socket: socket.to_owned(),
            options,
            peer: Some(peer),
            is_ready: false,
            tell,
            from_device,
            wake: wake.clone(),
        };
        std::thread::Builder::new()
            .name("portal-member".into())
            .spawn(move || thread.run())
            .context("cannot start a thread")?;
        Ok(Self {
            told,
            commands: Some(commands),
            wake,
        })
    }

    pub(crate) fn tell(&self, command: Command) {
        // When the thread has ended it has said why.
        let _ = self.commands.as_ref().map(|c| c.send(command));
        self.wake.signal();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.commands = None;
        self.wake.signal();
    }
}

struct Thread {
    socket: String,
    options: JoinOptions,
    /// `None` while the place is to be taken again.
    peer: Option<Peer>,
    /// The peer has said that it is ready: once in a life.
    is_ready: bool,
    tell: mesh::Sender<Told>,
    from_device: mpsc::Receiver<Command>,
    wake: Event,
}

impl Thread {
    fn run(mut self) {
        self.tell_of_all();
        loop {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    self.send(Told::Lost(error.to_string()));
                    return;
                }
            }
        }
    }

    fn send(&self, told: Told) {
        self.tell.send(told);
    }

    /// False when the device is gone.
    fn turn(&mut self) -> Result<bool, ClientError> {
        loop {
            match self.from_device.try_recv() {
                Ok(command) => self.carry_out(command)?,
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => return Ok(false),
            }
        }
        match &mut self.peer {
            Some(peer) => {
                let mut heard = Vec::new();
                while let Some(event) = peer.wait(Some(Duration::ZERO))? {
                    heard.push(event);
                }
                for event in heard {
                    self.hear(event);
                }
            }
            None => self.join_again()?,
        }
        self.wait();
        Ok(true)
    }

    fn wait(&self) {
        let socket = self.peer.as_ref().and_then(Peer::fd);
        let mut fds = vec![PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN)];
        fds.extend(socket.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let timeout = socket.is_none().then_some(&RETRY);
        // Interrupted or not, the next turn looks at everything.
        let _ = rustix::event::poll(&mut fds, timeout);
        self.wake.try_wait();
    }

    fn carry_out(&mut self, command: Command) -> Result<(), ClientError> {
        let Some(peer) = &mut self.peer else {
            // What is said of a place goes with it; what it hears on does not.
            if let Command::Bells(events) = command {
                self.options = self.options.clone().own_bells(bells(&events));
            }
            return Ok(());
        };
        let done = match command {
            Command::Ready if self.is_ready => Ok(()),
            Command::Ready => peer.ready().inspect(|()| self.is_ready = true),
            Command::Bells(events) => {
                let bells = bells(&events);
                self.options = self.options.clone().own_bells(bells.clone());
                peer.hear_on(bells)
            }
            Command::State(state) => peer.publish(state),
            Command::Rejoin => {
                self.options = self.options.clone().id(Some(peer.id()));
                let gone: Vec<u16> = peer.neighbours().keys().map(|id| id.0).collect();
                for peer in gone {
                    self.send(Told::Gone { peer });
                }
                self.peer = None;
                return self.join_again();
            }
        };
        match done {
            // It is said again by reattaching, as far as it still matters.
            Err(error) if error.is_passing() => Ok(()),
            done => done,
        }
    }

    /// Takes the place again under a new epoch.
    fn join_again(&mut self) -> Result<(), ClientError> {
        let joined = Connection::open(&self.socket).and_then(|c| c.join(&self.options));
        match joined {
            Ok(mut peer) => {
                let ready = peer.ready();
                self.is_ready = ready.is_ok();
                self.send(Told::Began {
                    epoch: peer.epoch(),
                });
                self.peer = Some(peer);
                self.tell_of_all();
                match ready {
                    Err(error) if !error.is_passing() => Err(error),
                    _ => Ok(()),
                }
            }
            Err(error) if error.is_passing() => {
                self.send(Told::Attached(false));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn tell_of_all(&mut self) {
        self.send(Told::Attached(true));
    }

    fn hear(&self, event: portal_client::Event) {
        use portal_client::Event;
        let told = match event {
            Event::Attached => Told::Attached(true),
            Event::Detached => Told::Attached(false),
            Event::Peer(session::Event::Joined(peer)) => Told::Joined {
                peer: peer.0,
                bells: self.bells_of(peer),
            },
            Event::Peer(session::Event::Bells(peer)) => Told::Bells {
                peer: peer.0,
                bells: self.bells_of(peer),
            },
            Event::Peer(session::Event::Ready(peer)) => Told::Ready { peer: peer.0 },
            Event::Peer(session::Event::Quiescing(peer)) => Told::Quiescing { peer: peer.0 },
            Event::Peer(session::Event::Gone(peer, _)) => Told::Gone { peer: peer.0 },
        };
        self.send(told);
    }

    fn bells_of(&self, peer: hv_shmem::layout::PeerId) -> Vec<Event> {
        let neighbours = self.peer.as_ref().map(Peer::neighbours);
        let neighbour = neighbours.and_then(|all| all.get(&peer));
        let bells = neighbour.map_or(&[][..], |n| &n.bells[..]);
        // A descriptor that cannot be duplicated is a doorbell that rings nobody.
        bells.iter().filter_map(|bell| event(bell).ok()).collect()
    }
}
