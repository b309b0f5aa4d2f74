//! What one L1 measures, and in which turns.

use super::Figure;
use super::Taken;
use super::boot;
use super::exits;
use super::machines::LINE;
use super::pairs;
use crate::ended::NotPassed;
use crate::ended::Passed;
use crate::lab::Job;
use crate::lab::Lab;
use crate::left;
use crate::programs::INSIDE;
use crate::programs::Programs;
use crate::vmm::Vmm;
use std::fmt;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

/// What a turn may take: several times what a quiet machine needs.
const TURN: Duration = Duration::from_secs(80);
/// What it may take beside, to show what it left.
const BESIDES: Duration = Duration::from_secs(10);
/// How often a turn is tried.
const TRIES: u32 = 2;

/// What one L1 measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Boots of one guest.
    Boot,
    /// Doorbell round trips of two guests by MSI-X.
    Doorbell,
    /// The same by MSI-X without an IOMMU, where there is an `igb_uio`.
    Direct,
    /// Doorbell round trips by INTx, which only `portal_vmm` has, beside its own by MSI-X.
    IntX,
    /// Rings between two guests.
    Ring,
}

impl Part {
    /// Every one, in the order in which they are measured.
    pub const ALL: [Self; 5] = [
        Self::Boot,
        Self::Doorbell,
        Self::Direct,
        Self::IntX,
        Self::Ring,
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Doorbell => "doorbell",
            Self::Direct => "direct",
            Self::IntX => "intx",
            Self::Ring => "ring",
        }
    }

    /// Whether these programs are enough for it.
    pub fn is_possible(self, programs: &Programs) -> bool {
        self != Self::Direct || programs.igb_uio.is_some()
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.name() == name)
    }

    /// How often each VMM has its turn.
    const fn rounds(self) -> usize {
        match self {
            Self::Boot => 4,
            Self::Doorbell | Self::Direct | Self::Ring => 3,
            Self::IntX => 2,
        }
    }

    /// What a round consists of, where these VMMs are there.
    pub(super) fn round(self, openvmm: bool) -> Vec<(Figure, Vmm)> {
        let figure = match self {
            Self::Boot => Figure::Boot,
            Self::Doorbell => Figure::MsiX,
            Self::Direct => Figure::Direct,
            Self::Ring => Figure::RingRate,
            Self::IntX => {
                return vec![
                    (Figure::MsiX, Vmm::PortalVmm),
                    (Figure::IntX, Vmm::PortalVmm),
                ];
            }
        };
        Vmm::ALL
            .into_iter()
            .filter(|vmm| *vmm != Vmm::OpenVmm || openvmm)
            .map(|vmm| (figure, vmm))
            .collect()
    }

    /// Every turn. A round starts with the second of the round before: none has the
    /// warmer cache throughout.
    fn turns(self, openvmm: bool) -> Vec<(Figure, Vmm)> {
        let mut round = self.round(openvmm);
        let mut turns = Vec::new();
        for _ in 0..self.rounds() {
            turns.extend_from_slice(&round);
            round.rotate_left(1);
        }
        turns
    }

    /// The turns as jobs of L1.
    pub(super) fn jobs(self, openvmm: bool) -> Vec<Job> {
        let job = |(n, (_, vmm)): (usize, &(Figure, Vmm))| Job {
            name: format!("{n}.{vmm}"),
            command: format!("{INSIDE}/portal-lab measure {self} {n}"),
            deadline: (TURN + BESIDES) * TRIES,
        };
        self.turns(openvmm).iter().enumerate().map(job).collect()
    }

    /// Whether every VMM that is there has had a turn.
    pub(super) fn is_whole(self, openvmm: bool, taken: &[Taken]) -> bool {
        let had = |turn: &(Figure, Vmm)| taken.iter().any(|t| (t.figure, t.vmm) == *turn);
        self.round(openvmm).iter().all(had)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Takes a turn of a part, inside L1, and once more when it fails; what it took is a
/// line on standard output.
///
/// # Errors
/// [`NotPassed`] when it fails again, or there is no such turn.
pub fn turn_inside(part: Part, n: usize) -> Passed {
    exits::mount()?;
    let turns = part.turns(Programs::inside().openvmm.is_some());
    let none = || NotPassed::failed(format!("{part} has no turn {n}"));
    let &(figure, vmm) = turns.get(n).ok_or_else(none)?;
    let mut tries = 0;
    loop {
        tries += 1;
        let Err(why) = turn(n, figure, vmm) else {
            return Ok(());
        };
        println!("##lost {vmm}: {}", left::escaped(&why.to_string()));
        if tries == TRIES {
            return Err(why);
        }
    }
}

fn turn(n: usize, figure: Figure, vmm: Vmm) -> Passed {
    let folder = Path::new("/tmp/numbers");
    let lab = Lab::new(Programs::inside(), folder, TURN, true)?;
    let start = Instant::now();
    let taken = match figure {
        Figure::Boot => boot::take(&lab, vmm).map(|taken| vec![taken]),
        Figure::MsiX | Figure::Direct | Figure::IntX => {
            pairs::trips(&lab, vmm, figure, n).map(|taken| vec![taken])
        }
        Figure::RingTrip | Figure::RingRate => pairs::rings(&lab, vmm, n),
    };
    lab.tidy();
    let taken = taken.inspect_err(|_| left::show(&lab.folder))?;
    for taken in taken {
        let json = serde_json::to_string(&taken).map_err(NotPassed::failed)?;
        println!("{LINE}{json}");
    }
    println!("{vmm}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vmm_is_first_once() {
        let turns = Part::Doorbell.turns(true);
        let order: Vec<Vmm> = turns.iter().map(|turn| turn.1).collect();
        let (a, b, c) = (Vmm::PortalVmm, Vmm::Qemu, Vmm::OpenVmm);
        assert_eq!(order, [a, b, c, b, c, a, c, a, b]);
        assert_eq!(Part::Boot.turns(false).len(), 8);
        for part in Part::ALL {
            assert_eq!(Part::named(part.name()), Some(part));
        }
    }

    #[test]
    fn a_part_is_whole_when_each_vmm_had_a_turn() {
        let taken = |figure, vmm| Taken {
            figure,
            vmm,
            samples: vec![1.0],
            rates: Vec::new(),
        };
        let mut all = vec![taken(Figure::RingRate, Vmm::Qemu)];
        all.push(taken(Figure::RingTrip, Vmm::PortalVmm));
        assert!(!Part::Ring.is_whole(false, &all));
        all.push(taken(Figure::RingRate, Vmm::PortalVmm));
        assert!(Part::Ring.is_whole(false, &all));
        assert!(!Part::Ring.is_whole(true, &all));
    }
}
