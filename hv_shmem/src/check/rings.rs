//! The words of every ring, held against each other.

use super::Checker;
use super::Code;
use super::Place;
use super::Severity;
use crate::directory;
use crate::directory::Entry;
use crate::mem::OutOfBounds;
use crate::mem::SharedMem;
use crate::survey;
use crate::survey::Scan;
use crate::survey::SectionSurvey;
use crate::survey::Survey;

impl<M: SharedMem> Checker<'_, M> {
    /// Checks the rings that the surveyed directories describe.
    pub(super) fn rings(&mut self, survey: &Survey) -> Result<(), OutOfBounds> {
        let layout = self.header.layout.clone();
        let mut scan = Scan::Whole {
            budget: u64::MAX,
            still: self.options.still,
        };
        for from in layout.peers() {
            let SectionSurvey::Good(good) = survey.section(from) else {
                continue;
            };
            let at = layout.section(from);
            let section = self.mem.window(at.start, at.end - at.start)?;
            for (index, entry) in good.good_entries() {
                let Entry::Producer(ring) = entry else {
                    continue;
                };
                self.report.looked_at.rings += 1;
                let consumer = survey.consumer(from, &ring);
                let consumer = consumer.as_ref();
                let state =
                    survey::ring_state(self.mem, &layout, from, &ring, consumer, &mut scan)?;
                if let Some(fault) = state.fault {
                    self.find_and(
                        (Code::RingIndex, Severity::Error, Place::Ring(from, index)),
                        fault,
                        "its entry freed: the ring has to be made again",
                        |_| directory::write(&section, &good.header, index, &Entry::Free),
                    );
                }
            }
        }
        Ok(())
    }
}
