//! One's place in a region: memory mapped, section formatted, doorbells ready.

use crate::BarAccess;
use crate::BellKind;
use crate::Carrier;
use crate::GuestBell;
use crate::GuestDoorbell;
use crate::GuestError;
use crate::registers::RegisterDoorbell;
use crate::registers::Registers;
use hv_shmem::backing::MappedMem;
use hv_shmem::backing::Mapping;
use hv_shmem::backing::OpenAs;
use hv_shmem::backing::View;
use hv_shmem::layout::PeerId;
use hv_shmem::own_section::OwnSection;
use hv_shmem::peers::PeerRecord;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::section::SectionConfig;
use hv_shmem::section::SectionState;
use std::path::PathBuf;
use std::sync::Arc;

/// The vector that peers ring for rings.
pub const RING_VECTOR: u16 = 0;

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
    /// How to divide the own section.
    pub section: SectionConfig,
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
            own: region.join(me, epoch, options.section)?,
            bell,
            given_up,
            through,
            doorbells,
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
