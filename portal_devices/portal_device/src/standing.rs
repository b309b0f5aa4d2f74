//! What stands for a device in its binding, apart from any VMM's objects: the way that
//! each vector's event takes to the guest, and which doorbells the kernel rings.
//!
//! The device says what should stand, the VMM what its host can do; these tables put the
//! two together, so that each binding decides alike. [`Vectors::set_paused`] and what counts
//! by [`Vectors::told`] and [`Doorbells::not_routed`] is for a VMM that pauses its devices
//! and shows [`Vectors::inspect`] and [`Doorbells::inspect`] (OpenVMM); `portal_vmm` has its
//! own words for what it shows, and takes the numbers one by one.
//!
//! Distrusted: nobody directly. Which doorbells there are follows from the peers of the
//! region and the vectors that they have, so the tables are as large as that at most.

use crate::Counter;
use crate::Effect;
use crate::Msi;
use crate::inspect::Node;
use std::collections::BTreeMap;

/// What becomes of a vector's event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It stays where it is.
    Held,
    /// The kernel delivers it as this message.
    Direct(Msi),
    /// The binding waits for it and gives [`crate::Input::Rung`].
    Told,
}

#[derive(Clone, Copy, Debug, Default)]
enum Wanted {
    #[default]
    Nothing,
    Interrupt(Msi),
    Told,
}

#[derive(Clone, Debug, Default)]
struct Vector {
    wanted: Wanted,
    direct: bool,
    told: Counter,
}

/// The vectors that a device receives on.
///
/// ```
/// use portal_device::{Effect, Msi};
/// use portal_device::standing::{Delivery, Vectors};
///
/// let msi = Msi { address: 0xfee0_0000, data: 0x41 };
/// let mut vectors = Vectors::new(2);
/// vectors.set_direct(0, true);
/// for vector in 0..2 {
///     vectors.take_in(&Effect::Connect { vector, msi });
/// }
/// assert_eq!(vectors.delivery(0), Delivery::Direct(msi));
/// assert_eq!(vectors.delivery(1), Delivery::Told, "the host has no direct way");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Vectors {
    each: Vec<Vector>,
    paused: bool,
}

impl Vectors {
    /// So many vectors, held; the host has no direct way yet.
    pub fn new(count: u16) -> Self {
        Self {
            each: vec![Vector::default(); count.into()],
            paused: false,
        }
    }

    /// How many there are.
    pub fn count(&self) -> u16 {
        u16::try_from(self.each.len()).unwrap_or(u16::MAX)
    }

    fn get(&self, vector: u16) -> Option<&Vector> {
        self.each.get(usize::from(vector))
    }

    fn get_mut(&mut self, vector: u16) -> Option<&mut Vector> {
        self.each.get_mut(usize::from(vector))
    }

    /// Whether the host can deliver this vector's event by itself.
    pub fn set_direct(&mut self, vector: u16, direct: bool) {
        if let Some(vector) = self.get_mut(vector) {
            vector.direct = direct;
        }
    }

    /// While the partition is paused every event is held.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Takes in [`Effect::Connect`], [`Effect::Listen`] and [`Effect::Disconnect`] and
    /// says whose [`Self::delivery`] may be another one now.
    pub fn take_in(&mut self, effect: &Effect) -> Option<u16> {
        let (vector, wanted) = match *effect {
            Effect::Connect { vector, msi } => (vector, Wanted::Interrupt(msi)),
            Effect::Listen { vector } => (vector, Wanted::Told),
            Effect::Disconnect { vector } => (vector, Wanted::Nothing),
            _ => return None,
        };
        self.get_mut(vector)?.wanted = wanted;
        Some(vector)
    }

    /// What is to become of the vector's event now.
    pub fn delivery(&self, vector: u16) -> Delivery {
        match self.get(vector) {
            Some(_) | None if self.paused => Delivery::Held,
            Some(vector) => match vector.wanted {
                Wanted::Nothing => Delivery::Held,
                Wanted::Interrupt(msi) if vector.direct => Delivery::Direct(msi),
                Wanted::Interrupt(_) | Wanted::Told => Delivery::Told,
            },
            None => Delivery::Held,
        }
    }

    /// Whether the device asks that nobody delivers the vector's event: it is to be
    /// drained before a read that shows pending vectors, and before saving.
    pub fn is_disconnected(&self, vector: u16) -> bool {
        let vector = self.get(vector);
        vector.is_some_and(|vector| matches!(vector.wanted, Wanted::Nothing))
    }

    /// Counts an event that the binding brought in.
    pub fn told(&mut self, vector: u16) {
        if let Some(vector) = self.get_mut(vector) {
            vector.told.bump();
        }
    }

    /// By vector: the way of its events, and how many came in by the binding. Those that
    /// the kernel delivers are counted by nobody.
    pub fn inspect(&self) -> Node {
        let mut node = Node::new();
        for (index, vector) in (0..).zip(&self.each) {
            let way = match self.delivery(index) {
                Delivery::Held => "held",
                Delivery::Direct(_) => "kernel",
                Delivery::Told => "hop",
            };
            let one = Node::new()
                .with("way", way)
                .with("kernel_direct", vector.direct)
                .with("received_by_hop", vector.told.get());
            node.push(index.to_string(), one);
        }
        node
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    by_hop: Counter,
    direct: u32,
}

/// The doorbells of a device: those that the kernel rings, each with what undoes that, and
/// those that the binding rang.
#[derive(Clone, Debug)]
pub struct Doorbells<R> {
    /// By address and value of the store: whom it rings.
    standing: BTreeMap<(u64, u32), ((u16, u16), R)>,
    /// By peer and vector.
    to: BTreeMap<(u16, u16), Sent>,
    sent: Counter,
    unheard: Counter,
    not_routed: Counter,
}

impl<R> Default for Doorbells<R> {
    fn default() -> Self {
        Self {
            standing: BTreeMap::new(),
            to: BTreeMap::new(),
            sent: Counter::default(),
            unheard: Counter::default(),
            not_routed: Counter::default(),
        }
    }
}

impl<R> Doorbells<R> {
    /// The kernel rings `to`, a peer and its vector, at a store `at` an address with a value.
    pub fn stands(&mut self, at: (u64, u32), to: (u16, u16), route: R) {
        self.remove(at);
        self.to.entry(to).or_default().direct += 1;
        self.standing.insert(at, (to, route));
    }

    /// Counts a doorbell that cannot stand: the store leaves the guest.
    pub fn not_routed(&mut self) {
        self.not_routed.bump();
    }

    /// A doorbell is to stand no more.
    pub fn remove(&mut self, at: (u64, u32)) -> Option<R> {
        let (to, route) = self.standing.remove(&at)?;
        if let Some(sent) = self.to.get_mut(&to) {
            sent.direct = sent.direct.saturating_sub(1);
        }
        Some(route)
    }

    /// The binding rang `vector` of `peer`; `heard` says whether there was an event.
    pub fn rang(&mut self, peer: u16, vector: u16, heard: bool) {
        self.sent.bump();
        if heard {
            self.to.entry((peer, vector)).or_default().by_hop.bump();
        } else {
            self.unheard.bump();
        }
    }

    /// How many the kernel rings.
    pub fn direct(&self) -> u64 {
        self.standing.len() as u64
    }

    /// How many the binding rang, heard or not.
    pub fn sent(&self) -> Counter {
        self.sent
    }

    /// How many of those rang nobody.
    pub fn unheard(&self) -> Counter {
        self.unheard
    }

    /// Those that the binding rang and a peer heard, as `peer.vector`.
    pub fn heard(&self) -> Node {
        let mut node = Node::new();
        for ((peer, vector), sent) in &self.to {
            if sent.by_hop.get() > 0 {
                node.push(format!("{peer}.{vector}"), sent.by_hop.get());
            }
        }
        node
    }

    /// By `peer.vector`: who rings it, and how often the binding did. What the kernel
    /// rings is counted by nobody.
    pub fn inspect(&self) -> Node {
        let mut to = Node::new();
        for ((peer, vector), sent) in &self.to {
            let one = Node::new()
                .with("way", if sent.direct > 0 { "kernel" } else { "hop" })
                .with("sent_by_hop", sent.by_hop.get());
            to.push(format!("{peer}.{vector}"), one);
        }
        Node::new()
            .with("kernel_direct", self.direct())
            .with("not_routed", self.not_routed.get())
            .with("sent_by_hop", self.sent.get())
            .with("unheard", self.unheard.get())
            .with("to", to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::Value;

    const MSI: Msi = Msi {
        address: 0xfee0_0000,
        data: 0x30,
    };

    #[test]
    fn a_vector_goes_the_way_that_device_and_host_agree_on() {
        let mut vectors = Vectors::new(1);
        let connect = Effect::Connect {
            vector: 0,
            msi: MSI,
        };
        assert_eq!(vectors.delivery(0), Delivery::Held);
        assert!(vectors.is_disconnected(0));
        assert_eq!(vectors.take_in(&connect), Some(0));
        assert_eq!(vectors.delivery(0), Delivery::Told);
        vectors.set_direct(0, true);
        assert_eq!(vectors.delivery(0), Delivery::Direct(MSI));
        vectors.set_paused(true);
        assert_eq!(vectors.delivery(0), Delivery::Held);
        assert!(!vectors.is_disconnected(0), "what rings is not pending");
        vectors.set_paused(false);
        assert_eq!(vectors.take_in(&Effect::Listen { vector: 0 }), Some(0));
        assert_eq!(vectors.delivery(0), Delivery::Told);
        assert_eq!(vectors.take_in(&Effect::Disconnect { vector: 0 }), Some(0));
        assert_eq!(vectors.delivery(0), Delivery::Held);
        // A vector that is not there.
        assert_eq!(vectors.take_in(&Effect::Listen { vector: 1 }), None);
        assert_eq!(vectors.delivery(1), Delivery::Held);
        assert!(!vectors.is_disconnected(1));
    }

    #[test]
    fn doorbells_are_found_again_by_place_and_counted_by_peer() {
        let mut doorbells = Doorbells::default();
        for (value, peer, vector) in [(0x1_0000, 1, 0), (0x1_0001, 1, 1), (0x2_0000, 2, 0)] {
            doorbells.stands((0xf000_000c, value), (peer, vector), value);
        }
        assert_eq!(doorbells.direct(), 3);
        assert_eq!(doorbells.remove((0xf000_000c, 0x2_0000)), Some(0x2_0000));
        assert_eq!(doorbells.remove((0xf000_000c, 0x2_0000)), None);

        doorbells.rang(2, 0, true);
        doorbells.rang(3, 0, false);
        assert_eq!((doorbells.sent().get(), doorbells.unheard().get()), (2, 1));
        let tree = doorbells.inspect();
        let way = Value::Text("hop".into());
        assert_eq!(tree.get("to/2.0/way"), Some(&way));
        assert_eq!(tree.get("to/2.0/sent_by_hop"), Some(&Value::Number(1)));
        assert_eq!(tree.get("to/3.0"), None, "nobody heard it");
    }
}
