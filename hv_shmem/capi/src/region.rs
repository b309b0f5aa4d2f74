//! Attaching and joining.
#![expect(unsafe_code, reason = "the C calling convention")]

use crate::handle;
use crate::status::Failed;
use crate::status::PortalStatus;
use crate::status::call;
use hv_shmem::arena::BoxedArena;
use hv_shmem::arena::ReturnReceiver;
use hv_shmem::arena::ReturnSender;
use hv_shmem::backing::Backing;
use hv_shmem::backing::BackingError;
use hv_shmem::backing::MappedMem;
use hv_shmem::backing::OpenAs;
use hv_shmem::backing::SharedPart;
use hv_shmem::backing::View;
use hv_shmem::layout::PeerId;
use hv_shmem::own_section::OwnSection;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::RegionError;
use hv_shmem::region::RingError;
use hv_shmem::section::SectionConfig;
use std::collections::HashMap;
use std::ffi::CStr;
use std::ffi::c_char;
use std::ffi::c_int;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// An attached region.
#[derive(Debug)]
pub struct PortalRegion {
    pub(crate) backing: Backing,
    pub(crate) region: hv_shmem::region::PortalRegion<MappedMem>,
}

/// A peer of a region: its own section, its arena, the spans that it holds.
#[derive(Debug)]
pub struct PortalPeer {
    pub(crate) own: OwnSection<MappedMem>,
    pub(crate) arena: BoxedArena<MappedMem>,
    pub(crate) resolver: hv_shmem::resolve::SpanResolver<MappedMem>,
    pub(crate) returns: HashMap<u16, ReturnSender<MappedMem>>,
    pub(crate) returned: HashMap<u16, ReturnReceiver<MappedMem>>,
}

/// What a region's header says.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct PortalRegionInfo {
    /// UUID, in the byte order of RFC 9562.
    pub uuid: [u8; 16],
    /// Name, NUL-padded; 32 bytes long names have no NUL.
    pub name: [u8; 32],
    /// Generation, from 1.
    pub generation: u64,
    /// Size in bytes.
    pub size: u64,
    /// Size of the common section in bytes.
    pub common_size: u64,
    /// Size of each output section in bytes.
    pub section_size: u64,
    /// Number of peers.
    pub max_peers: u16,
}

impl From<BackingError> for Failed {
    fn from(e: BackingError) -> Self {
        Self::new(PortalStatus::Region, e)
    }
}

impl From<RegionError> for Failed {
    fn from(e: RegionError) -> Self {
        let status = match e {
            RegionError::NotLive { .. } | RegionError::NotReady { .. } => PortalStatus::Empty,
            RegionError::Section { .. } => PortalStatus::Violation,
            RegionError::Config(_) => PortalStatus::Argument,
            _ => PortalStatus::Region,
        };
        Self::new(status, e)
    }
}

impl From<RingError> for Failed {
    fn from(e: RingError) -> Self {
        let status = match e {
            RingError::Region(e) => return e.into(),
            RingError::NotThere { .. } => PortalStatus::Empty,
            RingError::Place(_) | RingError::Accepted { .. } => PortalStatus::Argument,
            _ if e.is_misbehaviour() => PortalStatus::Violation,
            _ => PortalStatus::Region,
        };
        Self::new(status, e)
    }
}

/// Attaches to the region in the file at `path` (NUL-terminated).
///
/// # Safety
/// `path` is a C string; `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_attach(
    path: *const c_char,
    out: *mut *mut PortalRegion,
) -> PortalStatus {
    call(|| {
        if path.is_null() {
            return Err(Failed::argument("the path is NULL"));
        }
        // SAFETY: a C string by the caller's promise.
        let path = unsafe { CStr::from_ptr(path) };
        let path = path
            .to_str()
            .map_err(|_| Failed::argument("the path is no UTF-8"))?;
        let backing = Backing::open_file(Path::new(path), OpenAs::Peer)?;
        // SAFETY: `out` by the caller's promise.
        unsafe { attach(backing, out) }
    })
}

/// Attaches to the region behind an fd of a flat backing (a memfd or a file that
/// is open for reading and writing). The fd stays the caller's.
///
/// # Safety
/// `fd` is open; `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_attach_fd(fd: c_int, out: *mut *mut PortalRegion) -> PortalStatus {
    call(|| {
        if fd < 0 {
            return Err(Failed::argument("the fd is negative"));
        }
        // SAFETY: open by the caller's promise, for the length of this call.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let fd = fd
            .try_clone_to_owned()
            .map_err(|e| Failed::new(PortalStatus::Region, format!("duplicate the fd: {e}")))?;
        let whole = SharedPart {
            part: None,
            writable: true,
            fd,
        };
        let backing = Backing::from_shared(vec![whole])?;
        // SAFETY: `out` by the caller's promise.
        unsafe { attach(backing, out) }
    })
}

/// # Safety
/// `out` is null or writable.
unsafe fn attach(backing: Backing, out: *mut *mut PortalRegion) -> Result<(), Failed> {
    let mem = backing.map(View::OBSERVER)?.mem();
    let region = hv_shmem::region::PortalRegion::attach(mem, AttachOptions::default())?;
    // SAFETY: the caller's promise.
    unsafe { handle::give(out, PortalRegion { backing, region }) }
}

/// Lets go of a region. Peers joined through it stay. NULL does nothing.
///
/// # Safety
/// `region` came from `portal_attach` and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_detach(region: *mut PortalRegion) {
    // SAFETY: the caller's promise.
    unsafe { handle::close(region) }
}

/// What the region's header said when it was attached.
///
/// # Safety
/// `region` is a live handle; `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_info(
    region: *mut PortalRegion,
    out: *mut PortalRegionInfo,
) -> PortalStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let region = unsafe { handle::open(region) }?;
        let header = region.region.header();
        let l = &header.layout;
        let info = PortalRegionInfo {
            uuid: header.uuid.into_bytes(),
            name: *header.name.padded(),
            generation: header.generation,
            size: l.size,
            common_size: l.common.end - l.common.start,
            section_size: l.section_size,
            max_peers: l.max_peers,
        };
        // SAFETY: the caller's promise.
        unsafe { handle::put(out, info) }
    })
}

/// The epoch of a peer that is alive; `PORTAL_STATUS_EMPTY` when it is not.
///
/// # Safety
/// `region` is a live handle; `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_peer_epoch(
    region: *mut PortalRegion,
    peer: u16,
    out: *mut u32,
) -> PortalStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let region = unsafe { handle::open(region) }?;
        match region.region.live_epoch(PeerId(peer)) {
            // SAFETY: the caller's promise.
            Some(epoch) => unsafe { handle::put(out, epoch) },
            None => Err(Failed::new(
                PortalStatus::Empty,
                format!("peer {peer} is not there"),
            )),
        }
    })
}

/// Joins as peer `me`, which the host has admitted under `epoch`: formats its
/// section with `directory` ring entries, `ring_bytes` bytes for rings, and an
/// arena in the rest.
///
/// # Safety
/// `region` is a live handle; `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_join(
    region: *mut PortalRegion,
    me: u16,
    epoch: u32,
    directory: u32,
    ring_bytes: u64,
    out: *mut *mut PortalPeer,
) -> PortalStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let region = unsafe { handle::open(region) }?;
        let me = PeerId(me);
        let mem = region.backing.map(View::peer(me))?.mem();
        let options = AttachOptions {
            expect: Some(region.region.header().uuid),
            ..AttachOptions::default()
        };
        let writable = hv_shmem::region::PortalRegion::attach(mem, options)?;
        let config = SectionConfig {
            directory,
            ring_bytes,
        };
        let mut own = writable.join(me, epoch, config)?;
        let arena = own
            .arena()
            .map_err(|e| Failed::new(PortalStatus::Arena, e))?;
        let peer = PortalPeer {
            resolver: own.resolver()?,
            own,
            arena,
            returns: HashMap::new(),
            returned: HashMap::new(),
        };
        // SAFETY: the caller's promise.
        unsafe { handle::give(out, peer) }
    })
}

/// Counts the peer's heartbeat up; `PORTAL_STATUS_REGION` when the host has
/// declared this peer dead, and it must not go on.
///
/// # Safety
/// `peer` is a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_beat(peer: *mut PortalPeer) -> PortalStatus {
    call(|| {
        // SAFETY: the caller's promise.
        let peer = unsafe { handle::open(peer) }?;
        if !peer.own.is_current() {
            return Err(Failed::new(
                PortalStatus::Region,
                "the host has declared this peer dead",
            ));
        }
        peer.own.beat();
        Ok(())
    })
}

/// Closes the peer's section. Senders and receivers of it stay mapped until they
/// are closed, but others leave them alone. NULL does nothing.
///
/// # Safety
/// `peer` came from `portal_join` and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portal_leave(peer: *mut PortalPeer) {
    // SAFETY: the caller's promise.
    if let Some(peer) = unsafe { peer.as_ref() }
        && peer.own.is_current()
    {
        peer.own.set_state(hv_shmem::section::SectionState::Closed);
    }
    // SAFETY: the caller's promise.
    unsafe { handle::close(peer) }
}
