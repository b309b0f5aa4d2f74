//! A PCI function with registers in BAR0, MSI-X in BAR1, the region in BAR2 and
//! a doorbell at BAR0+0Ch: what ivshmem v1 and v2 have in common.
//!
//! What the binding has to have in place is computed from the state after every
//! change and compared with what it was told before ([`Standing`]); the
//! difference becomes effects. So "mapped exactly when decoding is on" holds by
//! construction, whatever the order of writes.
//!
//! Specification: PCI Local Bus 3.0, 6.2.2 (command), 6.2.5 (BARs), 6.8.2
//! (MSI-X). Distrusted: the guest. Left out: the register file.

use crate::guard::Guard;
use crate::guest::Counters;
use crate::peers::Peers;
use crate::window::Window;
use portal_device::Effect;
use portal_device::Effects;
use portal_device::Msi;
use portal_device::guard::stands;
use portal_pci::ConfigSpace;
use portal_pci::Msix;
use portal_pci::natural;

/// BAR indices.
pub(crate) const REGISTERS: u8 = 0;
pub(crate) const MSIX: u8 = 1;
pub(crate) const REGION: u8 = 2;
/// Offset of the doorbell in BAR0.
pub(crate) const DOORBELL: u64 = 0x0c;

/// Message control: bit 15 enables MSI-X, bit 14 masks all vectors.
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;

/// What the binding has been told about one vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Delivery {
    #[default]
    Off,
    Connected(Msi),
    Listening,
}

/// How events reach the guest at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Straight from the binding's event, for vectors that may be sent.
    Direct,
    /// Through the device, for every vector (INTx).
    Listen,
    /// Through the device, for vectors that may be sent (one-shot).
    ListenOpen,
    /// Not at all.
    Shut,
}

/// What an access to a BAR meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The device.
    Inside,
    /// No BAR there, not a natural access, or one that ends outside.
    Outside,
    /// A BAR that is not decoded.
    Undecoded,
}

/// What the binding has been told and has in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Standing {
    registers: Option<u64>,
    msix: Option<u64>,
    region: Option<u64>,
    vectors: Vec<Delivery>,
    line: bool,
}

/// The state that ivshmem v1 and v2 share.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub(crate) config: ConfigSpace,
    /// Table and offset of the message control word; `None` for plain.
    pub(crate) msix: Option<(Msix, usize)>,
    pub(crate) peers: Peers,
    pub(crate) counters: Counters,
    windows: Vec<Window>,
    /// Where the region is when no BAR says it.
    fixed: Option<u64>,
    attached: bool,
    standing: Standing,
}

impl Function {
    pub(crate) fn new(
        config: ConfigSpace,
        msix: Option<(Msix, usize)>,
        windows: Vec<Window>,
    ) -> Self {
        let vectors = msix.as_ref().map_or(0, |(msix, _)| msix.layout().vectors);
        let standing = Standing {
            vectors: vec![Delivery::Off; vectors.into()],
            ..Standing::default()
        };
        Function {
            config,
            msix,
            peers: Peers::default(),
            counters: Counters::default(),
            windows,
            fixed: None,
            attached: false,
            standing,
        }
    }

    pub(crate) fn msix_control(&self) -> u16 {
        self.msix
            .as_ref()
            .map_or(0, |(_, at)| self.config.capability_word(*at))
    }

    pub(crate) fn msix_enabled(&self) -> bool {
        self.msix_control() & MSIX_ENABLE != 0
    }

    /// The message of a vector that may be sent now.
    pub(crate) fn message(&self, vector: u16) -> Option<Msi> {
        let (msix, _) = self.msix.as_ref()?;
        let control = self.msix_control();
        if control & MSIX_ENABLE == 0 || control & MSIX_MASK_ALL != 0 || !self.config.bus_master() {
            return None;
        }
        msix.message(vector)
    }

    pub(crate) fn windows(&self) -> &[Window] {
        &self.windows
    }

    /// The region is at `gpa` whenever the device is attached.
    pub(crate) fn fix_region(&mut self, gpa: u64) {
        self.fixed = Some(gpa);
    }

    /// Where an access of the guest ends up.
    pub(crate) fn reach(&self, bar: u8, offset: u64, len: u8) -> Reach {
        let region = self.windows.iter().map(|window| window.len).sum();
        let (bar_len, decoded) = match self.config.bar(bar) {
            Some(info) => (info.len, self.config.decoded(bar).is_some()),
            None if bar == REGION && self.fixed.is_some() => (region, true),
            None => return Reach::Outside,
        };
        let inside = offset
            .checked_add(len.into())
            .is_some_and(|end| end <= bar_len);
        if !inside || !natural(offset, len) {
            Reach::Outside
        } else if !decoded && stands(Guard::Decoded) {
            Reach::Undecoded
        } else {
            Reach::Inside
        }
    }

    /// Rings a vector of a peer.
    pub(crate) fn ring(&self, peer: u16, vector: u16, effects: &mut Effects) {
        if self.attached {
            effects.push(Effect::Ring { peer, vector });
        }
    }

    pub(crate) fn attached(&self) -> bool {
        self.attached
    }

    pub(crate) fn set_attached(&mut self, attached: bool) {
        self.attached = attached;
    }

    fn len(&self, bar: u8) -> u64 {
        self.config.bar(bar).map_or(0, |info| info.len)
    }

    /// Brings traps, maps and routes to what configuration space says.
    pub(crate) fn sync_bars(&mut self, effects: &mut Effects) {
        let at = |bar| {
            if self.attached {
                self.config.decoded(bar)
            } else {
                None
            }
        };
        let region = match self.fixed {
            Some(gpa) if self.attached => Some(gpa),
            _ => at(REGION),
        };
        let (registers, msix) = (at(REGISTERS), at(MSIX));
        let old = (
            self.standing.registers,
            self.standing.msix,
            self.standing.region,
        );
        if old == (registers, msix, region) {
            return;
        }
        if old.0 != registers {
            self.unroute_all(effects);
        }
        if old.2 != region
            && let Some(base) = old.2
        {
            for window in self.windows.iter().rev() {
                effects.push(Effect::Unmap {
                    bar: REGION,
                    gpa: base + window.offset,
                    offset: window.offset,
                    len: window.len,
                });
            }
        }
        for (bar, old, new) in [(MSIX, old.1, msix), (REGISTERS, old.0, registers)] {
            if old != new
                && let Some(gpa) = old
            {
                effects.push(Effect::Untrap {
                    bar,
                    gpa,
                    len: self.len(bar),
                });
            }
        }
        for (bar, old, new) in [(REGISTERS, old.0, registers), (MSIX, old.1, msix)] {
            if old != new
                && let Some(gpa) = new
            {
                effects.push(Effect::Trap {
                    bar,
                    gpa,
                    len: self.len(bar),
                });
            }
        }
        if old.2 != region
            && let Some(base) = region
        {
            for window in &self.windows {
                effects.push(Effect::Map {
                    bar: REGION,
                    gpa: base + window.offset,
                    offset: window.offset,
                    len: window.len,
                    access: window.access,
                });
            }
        }
        let registers_moved = old.0 != registers;
        self.standing.registers = registers;
        self.standing.msix = msix;
        self.standing.region = region;
        if registers_moved {
            self.route_all(effects);
        }
    }

    fn unroute_all(&self, effects: &mut Effects) {
        for (peer, vector) in self.peers.routes() {
            self.unroute(peer, vector, effects);
        }
    }

    fn route_all(&self, effects: &mut Effects) {
        for (peer, vector) in self.peers.routes() {
            self.route(peer, vector, effects);
        }
    }

    pub(crate) fn unroute(&self, peer: u16, vector: u16, effects: &mut Effects) {
        if let Some(base) = self.standing.registers {
            let (gpa, value) = (base + DOORBELL, doorbell_value(peer, vector));
            effects.push(Effect::UnrouteDoorbell {
                gpa,
                value,
                peer,
                vector,
            });
        }
    }

    pub(crate) fn route(&self, peer: u16, vector: u16, effects: &mut Effects) {
        if let Some(base) = self.standing.registers {
            let (gpa, value) = (base + DOORBELL, doorbell_value(peer, vector));
            effects.push(Effect::RouteDoorbell {
                gpa,
                value,
                peer,
                vector,
            });
        }
    }

    /// A peer came: routes it if decoding is on.
    pub(crate) fn add_peer(&mut self, id: u16, vectors: u16, effects: &mut Effects) {
        if self.peers.add(id, vectors).routed {
            for vector in 0..vectors {
                self.route(id, vector, effects);
            }
        }
    }

    /// A peer left. False when it was not there.
    pub(crate) fn remove_peer(&mut self, id: u16, effects: &mut Effects) -> bool {
        let Some(peer) = self.peers.remove(id) else {
            return false;
        };
        if peer.routed {
            for vector in 0..peer.vectors {
                self.unroute(id, vector, effects);
            }
        }
        true
    }

    /// Brings the delivery of these vectors to what state and `mode` say, and
    /// raises those that waited for it. Returns how many were raised.
    pub(crate) fn sync_vectors(
        &mut self,
        vectors: std::ops::Range<u16>,
        mode: Mode,
        effects: &mut Effects,
    ) -> u64 {
        let mut raised = 0u64;
        for vector in vectors {
            let wanted = match (mode, self.message(vector)) {
                _ if !self.attached => Delivery::Off,
                (Mode::Listen, _) | (Mode::ListenOpen, Some(_)) => Delivery::Listening,
                (Mode::Direct, Some(msi)) => Delivery::Connected(msi),
                (Mode::Shut, _) | (_, None) => Delivery::Off,
            };
            let Some(standing) = self.standing.vectors.get_mut(usize::from(vector)) else {
                return raised;
            };
            if *standing != wanted {
                match (*standing, wanted) {
                    (_, Delivery::Off) => effects.push(Effect::Disconnect { vector }),
                    (Delivery::Listening, Delivery::Connected(msi)) => {
                        effects.push(Effect::Disconnect { vector });
                        effects.push(Effect::Connect { vector, msi });
                    }
                    (_, Delivery::Connected(msi)) => effects.push(Effect::Connect { vector, msi }),
                    (Delivery::Connected(_), Delivery::Listening) => {
                        effects.push(Effect::Disconnect { vector });
                        effects.push(Effect::Listen { vector });
                    }
                    (_, Delivery::Listening) => effects.push(Effect::Listen { vector }),
                }
                *standing = wanted;
            }
            if let (Delivery::Connected(msi), Some((msix, _))) = (wanted, self.msix.as_mut())
                && msix.pending(vector)
            {
                msix.set_pending(vector, false);
                effects.push(Effect::Raise { vector, msi });
                raised = raised.saturating_add(1);
            }
        }
        raised
    }

    /// Brings the INTx pin to `asserted`.
    pub(crate) fn sync_line(&mut self, asserted: bool, effects: &mut Effects) {
        let asserted = asserted && self.attached;
        if self.standing.line != asserted {
            self.standing.line = asserted;
            effects.push(Effect::Line { asserted });
        }
    }

    /// An event came in through the binding: raised when the vector is
    /// connected (true), else pending.
    pub(crate) fn deliver(&mut self, vector: u16, effects: &mut Effects) -> bool {
        let standing = self.standing.vectors.get(usize::from(vector)).copied();
        if let Some(Delivery::Connected(msi)) = standing {
            effects.push(Effect::Raise { vector, msi });
            return true;
        }
        if let Some((msix, _)) = self.msix.as_mut() {
            msix.set_pending(vector, true);
        }
        false
    }

    pub(crate) fn delivery(&self, vector: u16) -> Delivery {
        self.standing
            .vectors
            .get(usize::from(vector))
            .copied()
            .unwrap_or_default()
    }

    pub(crate) fn line(&self) -> bool {
        self.standing.line
    }

    /// Registers to power-on; peers and identity stay.
    pub(crate) fn reset(&mut self) {
        self.counters.resets.bump();
        self.config.reset();
        if let Some((msix, _)) = self.msix.as_mut() {
            msix.reset();
        }
    }
}

/// What the guest writes to ring: the peer in the high half, the vector in the
/// low.
pub(crate) fn doorbell_value(peer: u16, vector: u16) -> u32 {
    (u32::from(peer) << 16) | u32::from(vector)
}
