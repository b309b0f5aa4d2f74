//! A switchboard over heap memory, and bells that know how often they are held.

use hv_shmem::host_pages::HostPages;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::mem::HeapMem;
use hv_shmem::name::Name;
use hv_shmem::peers::PeerKind;
use hv_shmem::peers::Rights;
use portal_switchboard::Admission;
use portal_switchboard::Limits;
use portal_switchboard::Policy;
use portal_switchboard::Switchboard;
use std::sync::Arc;

pub(crate) type Bell = Arc<&'static str>;
pub(crate) type Board = Switchboard<HeapMem, Bell>;

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

/// Host pages of a region with `peers` ids, and the memory to look into.
pub(crate) fn pages(region: &str, peers: u16) -> (HostPages<HeapMem>, HeapMem) {
    let spec = RegionSpec::new(name(region), 16 << 20, peers);
    let mem = HeapMem::new(1 << 20);
    let pages = HostPages::format(mem.clone(), &spec, uuid::Uuid::from_u128(1));
    (pages.expect("host pages fit"), mem)
}

/// One region, "lake".
pub(crate) fn board(peers: u16) -> (Board, HeapMem) {
    let mut board = Switchboard::new(Limits {
        regions: 3,
        ..Limits::default()
    });
    let (pages, mem) = pages("lake", peers);
    board
        .add_region(pages, Policy::default())
        .expect("the first region");
    (board, mem)
}

pub(crate) fn lake() -> Name {
    name("lake")
}

/// A request of a partition with every right and these bells.
pub(crate) fn admission(who: &str, bells: &[Bell]) -> Admission<Bell> {
    Admission {
        name: name(who),
        kind: PeerKind::Partition,
        rights: Rights::ALL,
        id: None,
        bells: bells.to_vec(),
    }
}

pub(crate) fn bells(count: usize) -> Vec<Bell> {
    (0..count).map(|_| Arc::new("bell")).collect()
}

pub(crate) fn state_in_table(mem: &HeapMem, peer: PeerId) -> u32 {
    use hv_shmem::mem::SharedMem;
    mem.load_u32(4 * u64::from(peer.0), hv_shmem::mem::Ordering::Acquire)
}
