//! What is new: the difference between what is and what was told.

use super::shared::Bell;
use crate::Neighbour;
use crate::Phase;
use hv_shmem::doorbell::EventFd;
use hv_shmem::layout::PeerId;
use portal_device::Input;
use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

/// How it stands with the switchboard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// It is there.
    #[default]
    Attached,
    /// It is gone, and looked for.
    Away,
    /// It has no place for this peer any more: nothing is heard of anybody.
    /// [`super::Seat::inspect`] says why.
    Lost,
}

impl Standing {
    /// Its name in inspect trees.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::Away => "away",
            Self::Lost => "lost",
        }
    }
}

/// Something about another peer, or about the seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A peer is there.
    Joined {
        /// Its id.
        peer: PeerId,
        /// Vectors that it can be rung on.
        vectors: u16,
    },
    /// Its section can be used.
    Ready {
        /// Its id.
        peer: PeerId,
    },
    /// It takes no new work.
    Quiescing {
        /// Its id.
        peer: PeerId,
    },
    /// It hears on other events now, as many as before.
    Bells {
        /// Its id.
        peer: PeerId,
    },
    /// It is gone. One of the same id that is told of after it is another life.
    Gone {
        /// Its id.
        peer: PeerId,
    },
    /// How it stands with the switchboard.
    Standing(Standing),
}

impl Change {
    /// What a device is told of it; `None` where it is nothing that a device knows.
    pub const fn input(self) -> Option<Input> {
        Some(match self {
            Self::Joined { peer, vectors } => Input::PeerJoined {
                peer: peer.0,
                vectors,
            },
            Self::Ready { peer } => Input::PeerReady { peer: peer.0 },
            Self::Quiescing { peer } => Input::PeerQuiescing { peer: peer.0 },
            Self::Bells { peer } => Input::PeerBells { peer: peer.0 },
            Self::Gone { peer } => Input::PeerGone { peer: peer.0 },
            Self::Standing(_) => return None,
        })
    }
}

#[derive(Debug)]
struct Known {
    epoch: u32,
    phase: Phase,
    bells: Vec<Bell>,
}

/// What was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    version: u64,
    standing: Standing,
    others: BTreeMap<PeerId, Known>,
}

impl Told {
    /// Takes in what is, and says what is new of it. Nothing is looked at when `version`
    /// is that of the last call.
    pub(super) fn catch_up(
        &mut self,
        version: u64,
        standing: Standing,
        others: &BTreeMap<PeerId, Neighbour<Bell>>,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        if std::mem::replace(&mut self.version, version) == version {
            return changes;
        }
        self.others.retain(|&peer, known| {
            let stays = others.get(&peer).is_some_and(|now| known.is_still(now));
            if !stays {
                changes.push(Change::Gone { peer });
            }
            stays
        });
        for (&peer, now) in others {
            let known = self.others.entry(peer).or_insert_with(|| {
                let vectors = u16::try_from(now.bells.len()).unwrap_or(u16::MAX);
                changes.push(Change::Joined { peer, vectors });
                Known {
                    epoch: now.epoch,
                    phase: Phase::Joined,
                    bells: now.bells.clone(),
                }
            });
            if !alike(&known.bells, &now.bells, Arc::ptr_eq) {
                if !alike(&known.bells, &now.bells, same_event) {
                    changes.push(Change::Bells { peer });
                }
                known.bells.clone_from(&now.bells);
            }
            if known.phase != now.phase {
                known.phase = now.phase;
                changes.push(match now.phase {
                    Phase::Quiescing => Change::Quiescing { peer },
                    Phase::Ready | Phase::Joined => Change::Ready { peer },
                });
            }
        }
        if self.standing != standing {
            self.standing = standing;
            changes.push(Change::Standing(standing));
        }
        changes
    }
}

impl Known {
    /// Whether this is the life that was told of, with as many vectors.
    fn is_still(&self, now: &Neighbour<Bell>) -> bool {
        self.epoch == now.epoch && self.bells.len() == now.bells.len()
    }
}

/// Whether these are the same, vector by vector.
fn alike(these: &[Bell], those: &[Bell], same: impl Fn(&Bell, &Bell) -> bool) -> bool {
    these.len() == those.len() && these.iter().zip(those).all(|(a, b)| same(a, b))
}

/// Whether this is the same event, whatever its number.
fn same_event(a: &Bell, b: &Bell) -> bool {
    Arc::ptr_eq(a, b) || matches!((event_id(a), event_id(b)), (Some(a), Some(b)) if a == b)
}

/// The kernel's name for an event (`proc_pid_fdinfo(5)`), where it has one.
fn event_id(event: &EventFd) -> Option<u64> {
    let number = event.as_fd().as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
    let id = info.lines().find_map(|l| l.strip_prefix("eventfd-id:"))?;
    id.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_shmem::name::Name;
    use hv_shmem::peers::PeerKind;
    use portal_protocol::Reply;
    use portal_protocol::session::Session;

    fn bell() -> Bell {
        Arc::new(EventFd::new().expect("an event"))
    }

    #[test]
    fn events_are_known_again_by_other_numbers() {
        let [a, b] = [bell(), bell()];
        let again = Arc::new(a.try_clone().expect("a number"));
        let same = |these: &[Bell], those: &[Bell]| alike(these, those, same_event);
        assert!(same(&[a.clone(), b.clone()], &[again, b.clone()]));
        let [ab, ba] = [[a.clone(), b.clone()], [b, a]];
        assert!(!same(&ab, &ba) && !same(&ab, &ab[..1]));
        assert!(same(&[], &[]));
    }

    #[test]
    fn what_is_new_is_told_once_and_looked_for_where_there_may_be_some() {
        let peer = PeerId(1);
        let joined = |bells: u16| Reply::Joined {
            peer,
            epoch: 1,
            name: Name::new("n").expect("a name"),
            kind: PeerKind::Partition,
            bells,
        };
        let mut told = Told::default();
        let mut now = Session::default();
        let mut catch_up = |version, now: &Session<_>| {
            told.catch_up(version, Standing::Attached, now.neighbours())
        };
        let bell = bell();
        let again = Arc::new(bell.try_clone().expect("a number"));
        now.hear(&joined(1), vec![bell]);
        let news = [Change::Joined { peer, vectors: 1 }];
        assert_eq!(catch_up(1, &now), news);
        now.hear(&joined(1), vec![again]);
        assert_eq!(catch_up(2, &now), [], "the same event by another number");
        now.hear(&joined(1), vec![self::bell()]);
        assert_eq!(catch_up(2, &now), [], "nobody said that there is news");
        assert_eq!(catch_up(3, &now), [Change::Bells { peer }]);
        now.hear(&Reply::Gone { peer, epoch: 1 }, Vec::new());
        assert_eq!(catch_up(4, &now), [Change::Gone { peer }]);
    }
}
