//! Which part of the region a guest may do what with.
//!
//! Specification: none; the sections are those of [`hv_shmem::layout`]. The
//! windows of a device cover its region from 0 to the end without a gap, so
//! that the whole BAR is mapped before the guest's first instruction.

use crate::ConfigError;
use hv_shmem::layout::Layout;
use hv_shmem::layout::PAGE;
use hv_shmem::layout::PeerId;
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

    /// The windows of `peer`: its own section and, with `common`, the common
    /// section can be written; the rest is read-only. With `own` false nothing
    /// can be written (an observer).
    pub fn sectioned(layout: &Layout, peer: PeerId, own: bool, common: bool) -> Vec<Window> {
        let section = layout.section(peer);
        let mut windows: Vec<Window> = Vec::new();
        let mut add = |end: u64, writable: bool| {
            let access = if writable {
                Access::ReadWrite
            } else {
                Access::ReadOnly
            };
            let offset = windows.last().map_or(0, |last| last.offset + last.len);
            let Some(len) = end.checked_sub(offset).filter(|len| *len > 0) else {
                return;
            };
            match windows.last_mut() {
                Some(last) if last.access == access => last.len += len,
                _ => windows.push(Window {
                    offset,
                    len,
                    access,
                }),
            }
        };
        add(layout.host.end, false);
        add(layout.common.start, false);
        add(layout.common.end, common);
        add(section.start, false);
        add(section.end, own);
        add(layout.size, false);
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
                let windows = Window::sectioned(&layout, peer, true, true);
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
        let windows = Window::sectioned(&layout, PeerId(1), false, false);
        assert_eq!(windows, Window::flat(layout.size, Access::ReadOnly));
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
