//! What a fuzzer or a property test may do to a device: each action is one [`Input`]
//! with its numbers folded to where something is, so that most of them hit.
//!
//! Distrusted: everything. Left out: inputs that only a broken binding gives.

use portal_device::Input;

/// One step of a fuzzer.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
pub enum Action {
    /// Reads configuration space.
    ConfigRead {
        /// Offset, folded to 0 to 1FFh.
        offset: u16,
        /// log2 of the width, folded to 0 to 3.
        width: u8,
    },
    /// Writes configuration space.
    ConfigWrite {
        /// Offset, folded to 0 to 1FFh.
        offset: u16,
        /// log2 of the width, folded to 0 to 3.
        width: u8,
        /// Value.
        value: u32,
    },
    /// Sets the command register.
    Command {
        /// Value.
        value: u16,
    },
    /// Writes the MSI-X control word (bits 14 and 15 count).
    MsixControl {
        /// Value.
        value: u16,
    },
    /// Reads a BAR.
    BarRead {
        /// BAR, folded to 0 to 7.
        bar: u8,
        /// Offset, folded to 16 bits.
        offset: u16,
        /// log2 of the width, folded to 0 to 3.
        width: u8,
    },
    /// Writes a BAR.
    BarWrite {
        /// BAR, folded to 0 to 7.
        bar: u8,
        /// Offset, folded to 16 bits.
        offset: u16,
        /// log2 of the width, folded to 0 to 3.
        width: u8,
        /// Value.
        value: u64,
    },
    /// Writes the doorbell.
    Doorbell {
        /// Peer and vector.
        value: u32,
    },
    /// Somebody rings this device.
    Rung {
        /// Vector, folded to 0 to 15.
        vector: u8,
    },
    /// A peer comes.
    Joined {
        /// Its id, folded to 0 to 15.
        peer: u8,
        /// Its vectors.
        vectors: u8,
    },
    /// A peer is ready.
    Ready {
        /// Its id, folded to 0 to 15.
        peer: u8,
    },
    /// A peer goes.
    Gone {
        /// Its id, folded to 0 to 15.
        peer: u8,
    },
    /// Platform reset.
    Reset,
    /// The binding comes.
    Attach,
    /// The binding goes.
    Detach,
}

impl Action {
    /// The input that this action is. `msix_control` is the offset of the
    /// message control word in configuration space.
    pub fn input(self, msix_control: u16) -> Input {
        let len = |width: u8| 1u8 << (width & 3);
        match self {
            Action::ConfigRead { offset, width } => Input::ConfigRead {
                offset: offset & 0x1ff,
                len: len(width),
            },
            Action::ConfigWrite {
                offset,
                width,
                value,
            } => Input::ConfigWrite {
                offset: offset & 0x1ff,
                len: len(width),
                value,
            },
            Action::Command { value } => Input::ConfigWrite {
                offset: 4,
                len: 2,
                value: value.into(),
            },
            Action::MsixControl { value } => Input::ConfigWrite {
                offset: msix_control,
                len: 2,
                value: value.into(),
            },
            Action::BarRead { bar, offset, width } => Input::BarRead {
                bar: bar & 7,
                offset: offset.into(),
                len: len(width),
            },
            Action::BarWrite {
                bar,
                offset,
                width,
                value,
            } => Input::BarWrite {
                bar: bar & 7,
                offset: offset.into(),
                len: len(width),
                value,
            },
            Action::Doorbell { value } => Input::BarWrite {
                bar: 0,
                offset: 0x0c,
                len: 4,
                value: value.into(),
            },
            Action::Rung { vector } => Input::Rung {
                vector: (vector & 15).into(),
            },
            Action::Joined { peer, vectors } => Input::PeerJoined {
                peer: (peer & 15).into(),
                vectors: vectors.into(),
            },
            Action::Ready { peer } => Input::PeerReady {
                peer: (peer & 15).into(),
            },
            Action::Gone { peer } => Input::PeerGone {
                peer: (peer & 15).into(),
            },
            Action::Reset => Input::Reset,
            Action::Attach => Input::Attach,
            Action::Detach => Input::Detach,
        }
    }
}
