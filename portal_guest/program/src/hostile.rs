//! `portal-guest hostile`: misuses this machine's own ivshmem functions, for tests of a
//! VMM. Whoever shares a region with this machine, and the VMM, have to go on.
//!
//! ```text
//!   one thread a function: rings doorbells flat out, loads and stores in the region
//!   the other:  pick ──▶ registers │ MSI-X table │ configuration │ decoding │ move
//!                 ▲                                                            │
//!                 └──── memory decoding on, BARs where they were ◀─────────────┘
//! ```
//!
//! What is done, in which order, follows from the seed; how much of it, from the time.
//! Left out is what only stops this machine itself: interrupts with the vectors of its
//! own kernel, BARs over its interrupt controllers.

use crate::Outcome;
use crate::Report;
use crate::cli;
use crate::cli::Place;
use crate::exit::Failure;
use crate::exit::Kind;
use crate::numbers::Numbers;
use hv_shmem::layout::PeerId;
use portal_guest_linux::BarAccess;
use portal_guest_linux::Carrier;
use portal_guest_linux::GuestError;
use portal_guest_linux::MappedBar;
use portal_guest_linux::Width;
use portal_guest_linux::observe;
use portal_guest_linux::pci::Function;
use portal_guest_linux::scan;
use serde_json::json;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// Bytes of configuration space that every function has.
const CONFIG: usize = 256;
/// Offset of the command register there, and its bit for memory decoding.
const COMMAND: u64 = 0x04;
const MEMORY: u16 = 1 << 1;
/// Offset of the first BAR; a BAR has four bytes, or eight.
const BARS: u64 = 0x10;
/// Bits of a BAR: 64 bits wide, and all that are no address.
const WIDE: u32 = 1 << 2;
const FLAGS: u32 = 0xf;
/// Registers and MSI-X table.
const REGISTERS: usize = 0;
const TABLE: usize = 1;
const REGION: usize = 2;
/// Offset of the doorbell register.
const DOORBELL: usize = 0x0c;
/// An MSI-X table entry: address, address, data, control.
const ENTRY: usize = 16;
const MSI: u64 = 0xfee0_0000;
/// Interrupt vectors of which Linux makes no use without a driver.
const VECTORS: Range<u64> = 0x50..0x80;
/// In the middle of the RAM of the smallest machine.
const RAM: u64 = 64 << 20;
/// Accesses while something is out of place.
const MEANWHILE: u64 = 16;

impl Numbers {
    /// One of `0..below`, which is not 0.
    fn below(&mut self, below: u64) -> u64 {
        self.next() % below.max(1)
    }

    fn within(&mut self, range: &Range<u64>) -> u64 {
        range.start + self.below(range.end.saturating_sub(range.start))
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        let n = self.below(all.len() as u64) as usize;
        all.get(n).copied()
    }

    /// An access in a BAR: offset, width, value.
    fn access(&mut self, bar: &MappedBar) -> (usize, Width, u64) {
        let width = self.one_of(&Width::ALL).unwrap_or(Width::Double);
        let offset = self.below(bar.len() as u64) as usize;
        // Few values mean something; small ones more often than others.
        let value = self.next() >> self.below(64);
        (offset / width.bytes() * width.bytes(), width, value)
    }
}

/// How often each thing was done.
#[derive(Debug, Default)]
struct Done {
    doorbells: AtomicU64,
    region: AtomicU64,
    registers: AtomicU64,
    table: AtomicU64,
    config: AtomicU64,
    decoding: AtomicU64,
    moves: AtomicU64,
}

fn count(what: &AtomicU64) {
    what.fetch_add(1, Ordering::Relaxed);
}

/// A function that is misused.
struct Victim {
    name: String,
    config: File,
    /// As it was at first.
    saved: [u8; CONFIG],
    bars: [Option<MappedBar>; 3],
    /// Bytes of the region in which it stores.
    stores: Range<u64>,
}

impl Victim {
    fn new(carrier: &Carrier, peer: Option<PeerId>, everywhere: bool) -> Result<Self, GuestError> {
        let (Carrier::IvshmemV1(function) | Carrier::IvshmemV2(function)) = carrier else {
            return Err(GuestError::NotFound {
                wanted: "an ivshmem function".to_owned(),
                seen: format!("{carrier} is none"),
            });
        };
        function.config()?.decode_memory()?;
        let path = function.file("config");
        let failed = |what| {
            let path = path.clone();
            move |source| GuestError::Os { what, path, source }
        };
        let config = File::options().read(true).write(true).open(&path);
        let config = config.map_err(failed("open"))?;
        let mut saved = [0; CONFIG];
        config
            .read_exact_at(&mut saved, 0)
            .map_err(failed("read"))?;
        let bar = |number| map(function, number);
        let bars = [bar(REGISTERS)?, bar(TABLE)?, bar(REGION)?];
        let region = bars[REGION].as_ref().map_or(0, |bar| bar.len() as u64);
        let own = match observe(carrier, BarAccess::Sysfs) {
            Ok(region) => peer.map(|peer| region.layout().section(peer)),
            Err(_) => None,
        };
        Ok(Self {
            name: carrier.to_string(),
            config,
            saved,
            bars,
            stores: match everywhere {
                true => 0..region,
                false => own.unwrap_or(0..0),
            },
        })
    }

    /// Writes to configuration space. What the kernel or the function refuses is
    /// refused.
    fn configure(&self, at: u64, bytes: &[u8]) {
        let _ = self.config.write_all_at(bytes, at);
    }

    fn command(&self, memory: bool) {
        let saved = u16::from_le_bytes([self.saved[4], self.saved[5]]);
        let command = match memory {
            true => saved | MEMORY,
            false => saved & !MEMORY,
        };
        self.configure(COMMAND, &command.to_le_bytes());
    }

    fn saved_bar(&self, number: usize) -> u32 {
        let at = BARS as usize + 4 * number;
        let bytes = self.saved.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    }

    fn address(&self, number: usize) -> u64 {
        let low = self.saved_bar(number);
        let high = match low & WIDE {
            0 => 0,
            _ => u64::from(self.saved_bar(number + 1)) << 32,
        };
        high | u64::from(low & !FLAGS)
    }

    fn place_bar(&self, number: usize, address: u64) {
        let at = BARS + 4 * number as u64;
        match self.saved_bar(number) & WIDE {
            0 => self.configure(at, &(address as u32).to_le_bytes()),
            _ => self.configure(at, &address.to_le_bytes()),
        }
    }

    /// All as it was: configuration space first, then no vector that could fire.
    fn restore(&self) {
        for (at, bytes) in self.saved.chunks(4).enumerate() {
            if at as u64 * 4 != COMMAND {
                self.configure(at as u64 * 4, bytes);
            }
        }
        self.configure(COMMAND, &self.saved[4..6]);
        if let Some(table) = &self.bars[TABLE] {
            for entry in (0..table.len()).step_by(ENTRY) {
                table.store(entry + 12, Width::Double, 1);
            }
        }
    }

    /// Rings and stores until told to stop.
    fn flood(&self, mut numbers: Numbers, peers: u64, done: &Done, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let whom = match numbers.below(8) {
                0 => numbers.next() as u32,
                _ => (numbers.below(peers) << 16 | numbers.below(4)) as u32,
            };
            if let Some(bar) = &self.bars[REGISTERS] {
                bar.store(DOORBELL, Width::Double, whom.into());
                count(&done.doorbells);
            }
            if let Some(bar) = &self.bars[REGION] {
                let at = numbers.within(&self.stores) as usize / 8 * 8;
                if !self.stores.is_empty() && numbers.below(4) == 0 {
                    bar.store(at, Width::Quad, numbers.next());
                }
                let _ = bar.load(
                    numbers.below(bar.len() as u64) as usize / 8 * 8,
                    Width::Quad,
                );
                count(&done.region);
            }
        }
    }

    fn misuse(&self, numbers: &mut Numbers, done: &Done) {
        match numbers.below(16) {
            0..8 => self.registers(numbers, done),
            8..11 => self.table(numbers, done),
            11..13 => {
                let width = numbers.one_of(&Width::ALL).unwrap_or(Width::Byte).bytes();
                let at = numbers.below((CONFIG - width) as u64);
                self.configure(at, &numbers.next().to_le_bytes()[..width]);
                count(&done.config);
                self.command(true);
            }
            13 | 14 => {
                self.command(false);
                self.meanwhile(numbers, done);
                self.command(true);
                count(&done.decoding);
            }
            _ => self.move_bar(numbers, done),
        }
    }

    fn registers(&self, numbers: &mut Numbers, done: &Done) {
        let Some(bar) = &self.bars[REGISTERS] else {
            return;
        };
        let (offset, width, value) = numbers.access(bar);
        match numbers.below(2) {
            0 => drop(bar.load(offset, width)),
            _ => drop(bar.store(offset, width, value)),
        }
        count(&done.registers);
    }

    fn table(&self, numbers: &mut Numbers, done: &Done) {
        let Some(bar) = &self.bars[TABLE] else {
            return;
        };
        let entry = numbers.below(4) as usize * ENTRY;
        let store = |at, value| bar.store(entry + at, Width::Double, value);
        // Masked before, because a message in between may be any.
        store(12, 1);
        if numbers.below(2) == 0 {
            store(0, MSI | numbers.below(1 << 12) & !3);
            store(4, 0);
            store(8, numbers.within(&VECTORS));
            store(12, numbers.below(2));
        } else {
            let (offset, width, value) = numbers.access(bar);
            let control = offset % ENTRY + width.bytes() > 12;
            if offset >= 4 * ENTRY || !control {
                bar.store(offset, width, value);
                store(12, 1);
            }
            let _ = bar.load(offset, width);
        }
        count(&done.table);
    }

    fn move_bar(&self, numbers: &mut Numbers, done: &Done) {
        let Some(number) = numbers.one_of(&[REGISTERS, TABLE, REGION]) else {
            return;
        };
        let Some(bar) = &self.bars[number] else {
            return;
        };
        let (here, len) = (self.address(number), bar.len() as u64);
        let neighbour = numbers
            .one_of(&[REGISTERS, TABLE, REGION])
            .unwrap_or(number);
        let steps = numbers.below(16);
        let places = [
            here.wrapping_add(len.wrapping_mul(steps)),
            here.wrapping_sub(len.wrapping_mul(steps)),
            self.address(neighbour),
            self.address(neighbour).wrapping_add(numbers.below(4096)),
            RAM,
            0,
            u64::MAX,
            here | 1 << 46,
            here | 1 << 63,
        ];
        let off = numbers.below(2) == 0;
        if off {
            self.command(false);
        }
        self.place_bar(number, numbers.one_of(&places).unwrap_or(0));
        if off {
            self.command(true);
        }
        self.meanwhile(numbers, done);
        self.place_bar(number, here);
        self.command(true);
        count(&done.moves);
    }

    fn meanwhile(&self, numbers: &mut Numbers, done: &Done) {
        for _ in 0..numbers.below(MEANWHILE) {
            self.registers(numbers, done);
        }
    }
}

fn map(function: &Function, number: usize) -> Result<Option<MappedBar>, GuestError> {
    let there = function.bar(number).is_some();
    there.then(|| MappedBar::map(function, number)).transpose()
}

pub(crate) fn run(place: &Place, args: &cli::Hostile) -> Outcome {
    let mut victims = Vec::new();
    let mut peers = 1;
    for found in scan(BarAccess::Sysfs) {
        let at = place.at.as_ref();
        let is_wanted = at.is_none_or(|at| found.carrier.to_string() == *at);
        let is_function = matches!(found.carrier, Carrier::IvshmemV1(_) | Carrier::IvshmemV2(_));
        if is_wanted && is_function {
            if let Ok(header) = &found.header {
                peers = peers.max(u64::from(header.layout.max_peers));
            }
            victims.push(Victim::new(&found.carrier, found.peer, args.everywhere)?);
        }
    }
    if victims.is_empty() {
        let what = "this machine has no such ivshmem function";
        return Err(Failure::new(Kind::Machine, what));
    }
    let done = Done::default();
    misuse_all(&victims, peers, args.seed, args.seconds, &done);
    let names: Vec<&str> = victims.iter().map(|v| v.name.as_str()).collect();
    let number = |count: &AtomicU64| count.load(Ordering::Relaxed);
    Ok(Report {
        text: format!("{}: {done:?}", names.join(", ")),
        json: json!({
            "command": "hostile",
            "at": names,
            "seed": args.seed,
            "doorbells": number(&done.doorbells),
            "region": number(&done.region),
            "registers": number(&done.registers),
            "table": number(&done.table),
            "config": number(&done.config),
            "decoding": number(&done.decoding),
            "moves": number(&done.moves),
        }),
    })
}

fn misuse_all(victims: &[Victim], peers: u64, seed: u64, limit: Duration, done: &Done) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (n, victim) in victims.iter().enumerate() {
            let numbers = Numbers(seed.wrapping_add(1 + n as u64));
            let stop = &stop;
            scope.spawn(move || victim.flood(numbers, peers, done, stop));
        }
        let mut numbers = Numbers(seed);
        let start = Instant::now();
        while start.elapsed() < limit {
            for victim in victims {
                victim.misuse(&mut numbers, done);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    victims.iter().for_each(Victim::restore);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_follows_from_the_seed() {
        let some = |seed| {
            let mut numbers = Numbers(seed);
            (0..8).map(|_| numbers.next()).collect::<Vec<_>>()
        };
        assert_eq!(some(7), some(7));
        assert_ne!(some(7), some(8));
        let mut numbers = Numbers(0);
        assert_eq!(numbers.next(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(numbers.within(&(5..5)), 5);
        assert!((0..1000).all(|_| VECTORS.contains(&numbers.within(&VECTORS))));
    }
}
