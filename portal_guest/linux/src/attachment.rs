//! One's place in a region: memory mapped, section formatted, doorbells ready.

use crate::BarAccess;
use crate::BellKind;
use crate::Carrier;
use crate::GuestBell;
use crate::GuestDoorbell;
use crate::GuestError;
use crate::Wanted;
use crate::registers::RegisterDoorbell;
use crate::registers::Registers;
use hv_shmem::backing::MappedMem;
use hv_shmem::backing::Mapping;
use hv_shmem::backing::OpenAs;
use hv_shmem::backing::View;
use hv_shmem::layout::PeerId;
use hv_shmem::name::Name;
use hv_shmem::own_section::OwnSection;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::PeerRecord;
use hv_shmem::peers::Rights;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::section::SectionConfig;
use hv_shmem::section::SectionState;
use portal_client::Bells;
use portal_client::ClientError;
use portal_client::Connection;
use portal_client::Peer;
use portal_client::RegionInfo;
use std::cell::RefCell;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The vector that peers ring for rings.
pub const RING_VECTOR: u16 = 0;

/// Events of the switchboard taken in at once; the rest comes at the next look.
const EVENTS: u32 = 256;

/// How to join.
#[derive(Debug, Clone, Copy)]
pub struct JoinOptions {
    /// The own peer number, for carriers that do not tell it. One that does is
    /// believed more.
    pub peer: Option<PeerId>,
    /// How to hear doorbells.
    pub bell: BellKind,
    /// How to map a BAR.
    pub access: BarAccess,
    /// How to divide an own section of so many bytes.
    pub section: fn(u64) -> SectionConfig,
}

/// A peer in a region, in this process. Dropping it closes the section, so that the
/// others know; a process that is killed leaves that to its successor.
#[derive(Debug)]
pub struct Attachment {
    /// The own section: rings are made and accepted here.
    pub own: OwnSection<MappedMem>,
    /// What this process waits on.
    pub bell: GuestBell,
    /// Ways to hear doorbells that did not work, when the choice was left open.
    pub given_up: Vec<GuestError>,
    /// Through what the memory is mapped.
    pub through: PathBuf,
    doorbells: Doorbells,
    mapping: Mapping,
}

#[derive(Debug)]
enum Doorbells {
    Registers(Arc<Registers>),
    Served(Box<RefCell<Peer>>),
    None,
}

/// The region of a carrier, mapped for reading only.
///
/// # Errors
/// As [`Carrier::open`].
pub fn observe(
    carrier: &Carrier,
    access: BarAccess,
) -> Result<PortalRegion<MappedMem>, GuestError> {
    let (backing, _) = carrier.open(access, OpenAs::Observer)?;
    let mem = backing.map(View::OBSERVER)?.mem();
    let read_only = AttachOptions {
        read_only: true,
        expect: None,
    };
    Ok(PortalRegion::attach(mem, read_only)?)
}

/// The regions that a switchboard serves.
///
/// # Errors
/// [`GuestError::Switchboard`].
pub fn served_regions(socket: &Path) -> Result<Vec<RegionInfo>, GuestError> {
    Ok(Connection::open(socket)?.regions()?)
}

impl Attachment {
    /// Maps the region of a carrier, takes the place that the host has given this
    /// machine, and formats its section: what an earlier process had there is gone.
    ///
    /// # Errors
    /// [`GuestError::NoPeerId`], [`GuestError::NotAdmitted`],
    /// [`GuestError::NoInterrupts`], [`GuestError::NotShared`],
    /// [`GuestError::Backing`], [`GuestError::Region`].
    pub fn join(carrier: &Carrier, options: &JoinOptions) -> Result<Self, GuestError> {
        let registers = carrier.function().map(Registers::map).transpose()?;
        let registers = registers.map(Arc::new);
        let told = match (carrier, &registers) {
            // The plain variant has no place in a region and reads 0.
            (Carrier::IvshmemV1(function), Some(registers)) if function.bar(1).is_some() => {
                registers.iv_position()
            }
            (Carrier::IvshmemV2(_), Some(registers)) => registers.id(),
            _ => None,
        };
        let Some(me) = told.or(options.peer) else {
            let carrier = carrier.to_string();
            return Err(GuestError::NoPeerId { carrier });
        };
        let (backing, through) = carrier.open(options.access, OpenAs::Peer)?;
        let mapping = backing.map(View::peer(me))?;
        let region = PortalRegion::attach(mapping.mem(), AttachOptions::default())?;
        let epoch = admitted(&region, me)?;
        let (bell, given_up) = match (carrier, &registers) {
            (Carrier::IvshmemV1(function) | Carrier::IvshmemV2(function), Some(registers))
                if told.is_some() =>
            {
                GuestBell::open(function, registers, options.bell)?
            }
            _ => (GuestBell::Polling, Vec::new()),
        };
        let doorbells = match registers.filter(|_| told.is_some()) {
            Some(registers) => {
                if let (Carrier::IvshmemV2(_), GuestBell::Msix(_)) = (carrier, &bell) {
                    registers.set_interrupt_control(1);
                }
                Doorbells::Registers(registers)
            }
            None => Doorbells::None,
        };
        Ok(Self {
            own: region.join(me, epoch, (options.section)(region.layout().section_size))?,
            bell,
            given_up,
            through,
            doorbells,
            mapping,
        })
    }

    /// Joins a region that a switchboard of this machine serves, as a host process
    /// with any number, and formats its section. While the switchboard is gone the
    /// memory and the doorbells go on; [`Self::check`] comes back to it.
    ///
    /// # Errors
    /// [`GuestError::Switchboard`], [`GuestError::NotFound`],
    /// [`GuestError::Ambiguous`], [`GuestError::Region`].
    pub fn join_served(
        socket: &Path,
        wanted: Wanted<'_>,
        name: &str,
        options: &JoinOptions,
    ) -> Result<Self, GuestError> {
        let mut connection = Connection::open(socket)?;
        let region = served(&connection.regions()?, wanted)?;
        let name = Name::new(name).map_err(|e| {
            let path = Path::new(name);
            GuestError::os("name this peer", path)(std::io::Error::other(e.to_string()))
        })?;
        let mut peer = connection.join(&portal_client::JoinOptions {
            region,
            name,
            kind: PeerKind::HostProcess,
            rights: Rights::ALL,
            id: options.peer,
            bells: Bells::Served(1),
        })?;
        let mapping = peer.map()?;
        let region = PortalRegion::attach(mapping.mem(), AttachOptions::default())?;
        let section = (options.section)(region.layout().section_size);
        let own = region.join(peer.id(), peer.epoch(), section)?;
        peer.ready()?;
        let bell = match (peer.bells().first(), options.bell) {
            (Some(bell), BellKind::Auto) => GuestBell::Event(bell.clone()),
            _ => GuestBell::Polling,
        };
        Ok(Self {
            own,
            bell,
            given_up: Vec::new(),
            through: socket.to_owned(),
            doorbells: Doorbells::Served(Box::new(RefCell::new(peer))),
            mapping,
        })
    }

    /// The own number.
    pub fn me(&self) -> PeerId {
        self.own.me()
    }

    /// The region.
    pub fn region(&self) -> &PortalRegion<MappedMem> {
        self.own.region()
    }

    /// The doorbell of a peer for its rings.
    pub fn doorbell(&self, peer: PeerId) -> GuestDoorbell {
        match &self.doorbells {
            Doorbells::Registers(registers) => GuestDoorbell::Register(RegisterDoorbell {
                registers: registers.clone(),
                peer,
                vector: RING_VECTOR,
            }),
            Doorbells::Served(served) => {
                let mut served = served.borrow_mut();
                // What it cannot tell now it tells at the next check.
                let _ = catch_up(&mut served);
                match served.bell(peer, RING_VECTOR) {
                    Some(bell) => GuestDoorbell::Event(bell),
                    None => GuestDoorbell::Silent,
                }
            }
            Doorbells::None => GuestDoorbell::Silent,
        }
    }

    /// Peers that are alive, without this one.
    pub fn others(&self) -> Vec<PeerRecord> {
        let region = self.region();
        let peers = region.layout().peers().filter(|&p| p != self.me());
        let records = peers.filter_map(|p| region.peer(p).ok());
        records.filter(|r| r.state.is_live()).collect()
    }

    /// Whether this process still has its place: the host is the one that let it in
    /// and counts it among the living, and the memory is all there.
    ///
    /// # Errors
    /// [`GuestError::Evicted`], [`GuestError::Backing`].
    pub fn check(&self) -> Result<(), GuestError> {
        let peer = self.me();
        self.mapping.check()?;
        if let Doorbells::Served(served) = &self.doorbells
            && let Err(ClientError::Refused(_)) = catch_up(&mut served.borrow_mut())
        {
            let how = "the switchboard was restarted and does not know it";
            return Err(GuestError::Evicted { peer, how });
        }
        if !self.own.is_current() {
            let how = "the host ended its life there";
            return Err(GuestError::Evicted { peer, how });
        }
        match self.region().generation_now() {
            Ok(now) if now == self.region().header().generation => Ok(()),
            _ => {
                let how = "another host has taken the region over";
                Err(GuestError::Evicted { peer, how })
            }
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if self.own.is_current() {
            self.own.set_state(SectionState::Closed);
        }
    }
}

/// The region that was meant, among those served.
fn served(regions: &[RegionInfo], wanted: Wanted<'_>) -> Result<Name, GuestError> {
    let mut matching = regions.iter().filter(|r| wanted.matches(&r.name, r.uuid));
    let names = regions
        .iter()
        .map(|r| format!("{} ({})", r.name.as_str(), r.uuid));
    let seen = || {
        format!(
            "the switchboard serves {}",
            names.clone().collect::<Vec<_>>().join(", ")
        )
    };
    let wanted = wanted.to_string();
    match (matching.next(), matching.next()) {
        (Some(one), None) => Ok(one.name),
        (None, _) => Err(GuestError::NotFound {
            wanted,
            seen: seen(),
        }),
        (Some(_), Some(_)) => Err(GuestError::Ambiguous {
            wanted,
            seen: seen(),
        }),
    }
}

/// Takes in what the switchboard has to say, without waiting for it.
fn catch_up(peer: &mut Peer) -> Result<(), ClientError> {
    for _ in 0..EVENTS {
        if peer.wait(Some(Duration::ZERO))?.is_none() {
            break;
        }
    }
    Ok(())
}

/// The epoch that the host has admitted a peer under.
fn admitted(region: &PortalRegion<MappedMem>, me: PeerId) -> Result<u32, GuestError> {
    let record = region.peer(me)?;
    if record.state.is_live() {
        return Ok(record.epoch);
    }
    Err(GuestError::NotAdmitted {
        peer: me,
        region: region.header().name.as_str().to_owned(),
        state: format!("{:?}", record.state).to_lowercase(),
    })
}
