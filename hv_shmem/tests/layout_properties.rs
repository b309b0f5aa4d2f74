//! Properties of names, layouts, headers and section divisions, for any input.

use hv_shmem::header::HEADER_BYTES;
use hv_shmem::header::Header;
use hv_shmem::layout::HUGE_PAGE;
use hv_shmem::layout::Layout;
use hv_shmem::layout::MAX_PEERS;
use hv_shmem::layout::MIN_REGION;
use hv_shmem::layout::MIN_SECTION;
use hv_shmem::layout::PAGE;
use hv_shmem::layout::PEER_ENTRY_BYTES;
use hv_shmem::layout::PEER_TABLE_AT;
use hv_shmem::layout::PeerId;
use hv_shmem::layout::RegionSpec;
use hv_shmem::mem::HeapMem;
use hv_shmem::mem::SharedMem;
use hv_shmem::name::Name;
use hv_shmem::region::AttachOptions;
use hv_shmem::region::PortalRegion;
use hv_shmem::section::RING_ALIGN;
use hv_shmem::section::SectionConfig;
use hv_shmem::section::SectionHeader;
use proptest::prelude::*;
use uuid::Uuid;

fn sizes() -> impl Strategy<Value = u64> {
    prop_oneof![
        (0u32..64).prop_map(|bit| 1 << bit),
        any::<u64>(),
        (0u64..1 << 30).prop_map(|n| n / PAGE * PAGE),
    ]
}

fn peers() -> impl Strategy<Value = u16> {
    prop_oneof![0u16..16, any::<u16>(), Just(MAX_PEERS), Just(MAX_PEERS + 1)]
}

proptest! {
    // The failing input is in the message; nothing is written beside the tests.
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// "All page multiples; 2 MiB alignment above 16 MiB": and no part overlaps
    /// another, and none leaves the region.
    #[test]
    fn a_layout_is_sound_or_refused(size in sizes(), peers in peers(), common in sizes()) {
        let spec = RegionSpec::new(Name::new("p").unwrap(), size, peers).common(common);
        let Ok(l) = Layout::compute(&spec) else {
            return Ok(());
        };
        prop_assert!(size.is_power_of_two() && size >= MIN_REGION);
        prop_assert!((1..=MAX_PEERS).contains(&peers));
        prop_assert_eq!(l.page, if size > 16 << 20 { HUGE_PAGE } else { PAGE });
        prop_assert_eq!(l.host.start, 0);
        prop_assert!(l.host.end >= PEER_TABLE_AT + PEER_ENTRY_BYTES * u64::from(peers));
        prop_assert_eq!(l.common.clone(), l.host.end..l.host.end + common);
        prop_assert!(l.section_size >= MIN_SECTION);
        let mut end = l.common.end;
        for peer in l.peers() {
            let s = l.section(peer);
            prop_assert_eq!(s.start, end);
            prop_assert_eq!(s.end - s.start, l.section_size);
            end = s.end;
        }
        prop_assert!(end <= size);
        prop_assert!(size - end < u64::from(peers) * l.page);
        for at in [l.host.end, l.common.end, l.section_size] {
            prop_assert_eq!(at % l.page, 0);
        }
    }

    /// What is written is what is read.
    #[test]
    fn a_header_survives_its_bytes(
        bit in 16u32..40,
        peers in 1u16..64,
        uuid in any::<u128>(),
        generation in 1u64..,
        compat in any::<u64>(),
        sectioned in any::<bool>(),
        name in "[!-.0-~]{1,32}",
    ) {
        let spec = RegionSpec::new(Name::new(&name).unwrap(), 1 << bit, peers).sectioned(sectioned);
        let Ok(mut header) = Header::new(&spec, Uuid::from_u128(uuid)) else {
            return Ok(());
        };
        prop_assert_eq!(header.spec(), spec);
        header.generation = generation;
        header.compat ^= compat;
        prop_assert_eq!(Header::from_bytes(&header.to_bytes()), Ok(header));
    }

    /// Any bytes are a header or an error; what is one leads nowhere outside.
    #[test]
    fn any_bytes_are_a_header_or_an_error(
        mut bytes in proptest::collection::vec(any::<u8>(), HEADER_BYTES),
        fields in proptest::collection::vec((0usize..64, any::<u32>()), 0..4),
        start_right in any::<bool>(),
    ) {
        if start_right {
            let spec = RegionSpec::new(Name::new("p").unwrap(), 1 << 20, 4);
            bytes = Header::new(&spec, Uuid::from_u128(1)).unwrap().to_bytes().to_vec();
        }
        for (word, value) in fields {
            bytes[word * 4..word * 4 + 4].copy_from_slice(&value.to_le_bytes());
        }
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&bytes[..0xfc]);
        bytes[0xfc..].copy_from_slice(&crc.to_le_bytes());
        let mem = HeapMem::new(1 << 20);
        mem.write(0x1000, &bytes);
        if let Ok(region) = PortalRegion::attach(mem, AttachOptions::default()) {
            let l = region.layout();
            prop_assert!(l.size <= 1 << 20);
            for peer in l.peers() {
                prop_assert!(region.section_mem(peer).is_ok());
                let _ = region.section(peer);
            }
            prop_assert!(region.section_mem(PeerId(l.max_peers)).is_err());
        }
    }

    /// Header, directory, rings and arena lie side by side in the section.
    #[test]
    fn a_section_is_divided_or_refused(
        pages in 0u64..1 << 20,
        directory in any::<u32>(),
        small in 0u32..5000,
        ring_bytes in sizes(),
    ) {
        for directory in [directory, small] {
            let config = SectionConfig { directory, ring_bytes };
            let size = pages * PAGE;
            let Ok(h) = SectionHeader::divide(PeerId(1), 1, 1, size, &config) else {
                continue;
            };
            prop_assert!(h.directory >= 256);
            prop_assert!(h.rings >= h.directory + 64 * u64::from(h.entries));
            prop_assert!(h.ring_bytes >= ring_bytes);
            prop_assert!(h.arena >= h.rings + h.ring_bytes);
            prop_assert_eq!(h.arena + h.arena_bytes, size);
            prop_assert!(h.arena_bytes >= hv_shmem::arena::MIN_ARENA);
            prop_assert_eq!((h.rings % RING_ALIGN, h.arena % PAGE), (0, 0));
        }
    }

    /// A name is what it was made of, and nothing that a terminal obeys.
    #[test]
    fn a_name_is_printable_or_refused(text in "\\PC{0,40}|.{0,40}") {
        match Name::new(&text) {
            Ok(name) => {
                prop_assert_eq!(name.as_str(), &text);
                prop_assert_eq!(Name::from_padded(name.padded()), Ok(name));
                prop_assert!(text.bytes().all(|b| b.is_ascii_graphic() && b != b'/'));
            }
            Err(_) => prop_assert!(
                text.is_empty()
                    || text.len() > 32
                    || text.bytes().any(|b| !b.is_ascii_graphic() || b == b'/')
            ),
        }
    }

    /// A name of the table never hides a NUL or a control character.
    #[test]
    fn padded_bytes_are_a_name_or_refused(bytes in any::<[u8; 32]>(), len in 0usize..33) {
        let mut padded = bytes;
        padded[len..].fill(0);
        if let Ok(name) = Name::from_padded(&padded) {
            prop_assert_eq!(Name::new(name.as_str()), Ok(name));
            prop_assert_eq!(name.padded(), &padded);
        }
    }
}
