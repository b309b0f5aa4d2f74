//! Samples for the tests of this crate.

use hv_shmem::show::PeerView;
use hv_shmem::show::RegionView;
use hv_shmem::show::RingView;
use portal_observe::sample::PartitionSample;
use portal_observe::sample::Sample;
use std::time::Duration;

pub(crate) fn peer(id: u16, name: &str, state: &str) -> PeerView {
    PeerView {
        id,
        name: name.to_owned(),
        kind: "partition".to_owned(),
        state: state.to_owned(),
        epoch: 1,
        rights: vec!["read".to_owned()],
        vectors: 2,
        section: None,
        problems: Vec::new(),
    }
}

/// A ring of 64 slots of 64 bytes.
pub(crate) fn ring(from: u16, to: u16, id: u32, sent: u64, taken: Option<u64>) -> RingView {
    RingView {
        from,
        to,
        id,
        kind: "stream".to_owned(),
        layout: "in-line".to_owned(),
        slot_size: 64,
        slots: 64,
        instance: 1,
        sent,
        taken,
        untold: 15,
        lost: 0,
        sender_waits: false,
        receiver_waits: false,
        current: true,
        problem: None,
    }
}

pub(crate) fn region(name: &str, peers: Vec<PeerView>, rings: Vec<RingView>) -> RegionView {
    RegionView {
        name: name.to_owned(),
        uuid: format!("uuid of {name}"),
        generation: 1,
        size: 64 << 20,
        page: 4096,
        host_bytes: 0x2000,
        common_bytes: 0,
        section_bytes: 1 << 20,
        max_peers: 8,
        features: [0; 3],
        storage: "memfd".to_owned(),
        enforced: true,
        durable: false,
        peers,
        rings,
        rings_left_out: 0,
    }
}

pub(crate) fn partition(name: &str, exits: u64, interrupts: u64) -> PartitionSample {
    PartitionSample {
        name: name.to_owned(),
        state: "running".to_owned(),
        vcpus: 2,
        exits,
        interrupts: Some(interrupts),
        doorbells: 0,
        dropped_stores: 0,
    }
}

/// A sample at a number of seconds.
pub(crate) fn at(seconds: u64, regions: Vec<RegionView>) -> Sample {
    Sample {
        at: Duration::from_secs(seconds),
        regions,
        ..Sample::default()
    }
}
