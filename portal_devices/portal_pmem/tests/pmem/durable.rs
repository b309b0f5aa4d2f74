//! The promise: a guest that is told 0 finds every byte that it stored before
//! it asked. Against a model disk, for every interleaving of stores, requests
//! and flushes that begin, end or fail; nobody is answered twice or forgotten.

use portal_device::Access;
use portal_device::Device;
use portal_device::Effect;
use portal_device::Effects;
use portal_device::Input;
use portal_pmem::VirtioPmem;
use portal_pmem::VirtioPmemConfig;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug)]
enum Act {
    /// The guest stores something new.
    Store,
    /// The guest asks for a flush.
    Ask,
    /// The flush that runs ends.
    End {
        ok: bool,
    },
    /// A flush ends that is none of ours.
    Stray {
        token: u32,
    },
    Reset,
}

struct Model {
    device: VirtioPmem,
    /// Stores so far, and how many of them are on the disk.
    stored: u64,
    durable: u64,
    /// Flushes that run: token, and the stores when it began.
    running: BTreeMap<u32, u64>,
    /// Requests not answered: token, and the stores when it asked.
    asked: BTreeMap<u32, u64>,
    number: u32,
    /// The disk has lost something.
    lost: bool,
}

impl Model {
    fn new() -> Self {
        let config = VirtioPmemConfig {
            size: 2 << 20,
            access: Access::ReadWrite,
        };
        let mut model = Model {
            device: VirtioPmem::new(config).expect("valid"),
            stored: 0,
            durable: 0,
            running: BTreeMap::new(),
            asked: BTreeMap::new(),
            number: 0,
            lost: false,
        };
        model.device.step(Input::Attach, &mut Effects::new());
        model
    }

    fn step(&mut self, input: Input) -> Result<(), String> {
        let mut effects = Effects::new();
        self.device.step(input, &mut effects);
        for effect in effects.drain() {
            match effect {
                Effect::Flush { token, .. } => {
                    if self.running.insert(token, self.stored).is_some() || self.running.len() > 1 {
                        return Err("two flushes at a time".into());
                    }
                }
                Effect::Complete { token, answer, .. } => {
                    let Some(asked) = self.asked.remove(&token) else {
                        return Err(format!("{token} is answered and did not ask"));
                    };
                    if answer == 0 && (self.lost || self.durable < asked) {
                        return Err(format!("{token} is told that its stores are durable"));
                    }
                }
                other => return Err(format!("{other:?}")),
            }
        }
        Ok(())
    }

    fn act(&mut self, act: Act) -> Result<(), String> {
        match act {
            Act::Store => self.stored += 1,
            Act::Ask => {
                self.number += 1;
                let token = self.number;
                self.asked.insert(token, self.stored);
                self.step(Input::Request {
                    queue: 0,
                    token,
                    head: 0,
                    readable: 4,
                    writable: 4,
                })?;
            }
            Act::End { ok } => {
                if let Some((token, began)) = self.running.pop_first() {
                    if ok {
                        self.durable = self.durable.max(began);
                    } else {
                        // What was dirty may be dropped.
                        self.lost |= began > self.durable;
                    }
                    self.step(Input::Flushed { token, ok })?;
                }
            }
            Act::Stray { token } => {
                if !self.running.contains_key(&token) {
                    self.step(Input::Flushed { token, ok: true })?;
                }
            }
            Act::Reset => {
                self.step(Input::Reset)?;
                self.asked.clear();
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), String> {
        for _ in 0..3 {
            self.act(Act::End { ok: true })?;
        }
        if self.asked.is_empty() {
            Ok(())
        } else {
            Err("somebody is never answered".into())
        }
    }
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Store),
        4 => Just(Act::Ask),
        3 => Just(Act::End { ok: true }),
        1 => Just(Act::End { ok: false }),
        1 => (0..6u32).prop_map(|token| Act::Stray { token }),
        1 => Just(Act::Reset),
    ]
}

fn run(acts: &[Act]) -> Result<(), String> {
    let mut model = Model::new();
    for act in acts {
        model.act(*act)?;
    }
    model.finish()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_said_to_be_durable_is(acts in vec(act(), 1..60)) {
        prop_assert_eq!(run(&acts), Ok(()));
    }
}

#[cfg(feature = "negative_control")]
mod control {
    use super::*;
    use portal_device::guard::without;
    use portal_pmem::guard::Guard;
    use proptest::test_runner::TestRunner;

    fn fails(guard: Guard) {
        let config = ProptestConfig {
            cases: 512,
            failure_persistence: None,
            max_shrink_iters: 0,
            ..ProptestConfig::default()
        };
        let mut runner = TestRunner::new(config);
        let result = runner.run(&vec(act(), 1..60), |acts| {
            let held = without(guard, || run(&acts));
            prop_assert_eq!(held, Ok(()));
            Ok(())
        });
        assert!(result.is_err(), "nothing failed without {guard:?}");
    }

    #[test]
    fn a_request_that_joins_the_running_flush_is_noticed() {
        fails(Guard::NextFlush);
    }

    #[test]
    fn a_success_after_a_failure_is_noticed() {
        fails(Guard::Sticky);
    }

    #[test]
    fn a_flush_that_ends_with_a_stray_token_is_noticed() {
        fails(Guard::Token);
    }
}
