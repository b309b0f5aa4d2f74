//! Which part of the region a guest may do what with.
//!
//! Specification: none; the sections are those of [`hv_shmem::layout`]. The
//! windows of a device cover its region from 0 to the end without a gap, so
//! that the whole BAR is mapped before the guest's first instruction.

use crate::ConfigError;
use hv_shmem::layout::Layout;
use hv_shmem::layout::PAGE;
use hv_shmem::layout::PeerId;
use hv_shmem::peers::Rights;
use portal_device::Access;

/// Most windows of one device: a sectioned region has host pages, common
/// section, the sections before the own one, the own one, those behind it.
pub const MAX_WINDOWS: usize = 8;

/// What a guest's write to a part of the region that is read-only to it comes
/// to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeniedWrite {
    /// No effect, counted as `region_writes_dropped`.
    #[default]
    Drop,
    /// The partition is stopped with [`portal_device::StopReason::DeniedWrite`].
    Stop,
}

/// What of a region a partition may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writable {
    /// Nothing.
    Nothing,
    /// Its own section and the common one.
    Own,
    /// Every section.
    All,
}

impl Writable {
    /// What the guest may do where it may do most.
    pub const fn access(self) -> Access {
        match self {
            Self::Nothing => Access::ReadOnly,
            Self::Own | Self::All => Access::ReadWrite,
        }
    }

    /// What to ask of the one who serves the region.
    pub const fn rights(self) -> Rights {
        match self {
            Self::Nothing => Rights::READ.and(Rights::RING),
            Self::Own | Self::All => Rights::ALL,
        }
    }
}

/// A part of the region with one kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Offset in the region, bytes; a multiple of 4096.
    pub offset: u64,
    /// Length, bytes; a multiple of 4096, not 0.
    pub len: u64,
    /// What the guest may do there.
    pub access: Access,
}

impl Window {
    /// One window over a region of `len` bytes.
    pub fn flat(len: u64, access: Access) -> Vec<Window> {
        vec![Window {
            offset: 0,
            len,
            access,
        }]
    }

    /// The windows of `peer` in a region with sections.
    pub fn of(layout: &Layout, peer: PeerId, writable: Writable) -> Vec<Window> {
        let (common, own) = (&layout.common, layout.section(peer));
        // What alignment leaves over behind the last section is nobody's.
        let sections = u64::from(layout.max_peers) * layout.section_size;
        // Where a run of bytes ends, and whether it can be written.
        let runs: &[(u64, bool)] = match writable {
            Writable::Nothing => &[(layout.size, false)],
            Writable::Own => &[
                (common.start, false),
                (common.end, true),
                (own.start, false),
                (own.end, true),
                (layout.size, false),
            ],
            Writable::All => &[
                (layout.sections_at() + sections, true),
                (layout.size, false),
            ],
        };
        let mut windows: Vec<Window> = Vec::new();
        let mut offset = 0;
        for &(end, writable) in runs {
            let access = match writable {
                true => Access::ReadWrite,
                false => Access::ReadOnly,
            };
            let Some(len) = end.checked_sub(offset).filter(|len| *len > 0) else {
                continue;
            };
            match windows.last_mut() {
                Some(last) if last.access == access => last.len += len,
                _ => windows.push(Window {
                    offset,
                    len,
                    access,
                }),
            }
            offset = end;
        }
        windows
    }
}

/// Checks that the windows cover `len` bytes in order.
pub(crate) fn check(windows: &[Window], len: u64) -> Result<(), ConfigError> {
    if windows.len() > MAX_WINDOWS {
        return Err(ConfigError::Windows {
            value: windows.len(),
            limit: MAX_WINDOWS,
        });
    }
    let mut next = 0u64;
    for (index, window) in windows.iter().enumerate() {
        let end = window.offset.checked_add(window.len);
        match end {
            Some(end)
                if window.offset == next
                    && window.len > 0
                    && window.len.is_multiple_of(PAGE)
                    && end <= len =>
            {
                next = end;
            }
            _ => {
                return Err(ConfigError::Window {
                    index,
                    offset: window.offset,
                    len: window.len,
                    expected: next,
                });
            }
        }
    }
    if next != len {
        return Err(ConfigError::WindowsEnd {
            value: next,
            region_len: len,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_shmem::layout::RegionSpec;
    use hv_shmem::name::Name;

    const MIB: u64 = 1 << 20;

    fn layout(common: u64) -> Layout {
        let name = Name::new("w").expect("a name");
        let spec = RegionSpec::new(name, 4 * MIB, 4).common(common);
        Layout::compute(&spec).expect("four sections fit")
    }

    #[test]
    fn sectioned_windows_are_writable_where_the_peer_writes() {
        for common in [0, 64 << 10] {
            let layout = layout(common);
            for peer in 0..4 {
                let peer = PeerId(peer);
                let windows = Window::of(&layout, peer, Writable::Own);
                assert_eq!(check(&windows, layout.size), Ok(()));
                for at in (0..layout.size).step_by(PAGE as usize) {
                    let window = windows
                        .iter()
                        .find(|w| (w.offset..w.offset + w.len).contains(&at))
                        .expect("no gap");
                    let writable =
                        layout.section(peer).contains(&at) || layout.common.contains(&at);
                    assert_eq!(window.access == Access::ReadWrite, writable, "{at:#x}");
                }
            }
        }
    }

    #[test]
    fn an_observer_has_one_read_only_window() {
        let layout = layout(0);
        let windows = Window::of(&layout, PeerId(1), Writable::Nothing);
        assert_eq!(windows, Window::flat(layout.size, Access::ReadOnly));
    }

    #[test]
    fn everything_ends_with_the_last_section() {
        let layout = layout(0);
        let windows = Window::of(&layout, PeerId(0), Writable::All);
        assert_eq!(check(&windows, layout.size), Ok(()));
        let end = layout.section(PeerId(3)).end;
        assert_eq!(
            (windows[0].len, windows[0].access),
            (end, Access::ReadWrite)
        );
    }

    #[test]
    fn a_stranger_writes_nothing_but_the_common_section() {
        let windows = Window::of(&layout(0), PeerId(77), Writable::Own);
        assert_eq!(windows, Window::flat(4 * MIB, Access::ReadOnly));
    }

    #[test]
    fn gaps_overlaps_and_odd_lengths_are_errors() {
        let window = |offset, len| Window {
            offset,
            len,
            access: Access::ReadOnly,
        };
        let whole = 4 * PAGE;
        assert_eq!(
            check(&[window(0, PAGE), window(PAGE, 3 * PAGE)], whole),
            Ok(())
        );
        for bad in [
            vec![],
            vec![window(0, PAGE)],
            vec![window(PAGE, 3 * PAGE)],
            vec![window(0, 2 * PAGE), window(PAGE, 3 * PAGE)],
            vec![window(0, PAGE + 1), window(PAGE + 1, 3 * PAGE - 1)],
            vec![window(0, 5 * PAGE)],
            vec![window(0, 0), window(0, whole)],
            vec![window(0, !4095), window(!4095, PAGE)],
        ] {
            assert!(check(&bad, whole).is_err(), "{bad:?}");
        }
    }
}
