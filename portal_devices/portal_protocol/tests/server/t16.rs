//! T16: hostile control clients, at counts that sockets do not reach. A case is one
//! step of [`rig`](crate::rig): a client's message with 0 to 253 descriptors, a
//! hang-up, a client that reads or does not, time that passes, a restart.

use crate::rig::World;
use crate::rig::source::Random;

const WHAT: &str =
    "Portal protocol: any messages, 0 to 253 fds, hang-ups and restarts in any order";

/// Steps after which everybody leaves, and nothing may be left.
const ROUND: u64 = 1000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn run(control: Option<&str>) -> u64 {
    let cases = number("PORTAL_CASES").unwrap_or(20_000);
    let seed = number("PORTAL_SEED").unwrap_or(16);
    let mut random = Random::new(seed);
    let mut world = World::new();
    let mut failures = 0;
    for case in 0..cases {
        let mut held = world.act(&mut random);
        if held.is_ok() && case % ROUND == ROUND - 1 {
            held = world.leave_all();
        }
        if let Err(why) = held {
            failures += 1;
            if failures <= 3 {
                println!("case {case}: {why}");
            }
            world = World::new();
        }
    }
    let control = control.map_or(String::new(), |name| format!("\"control\":\"{name}\","));
    println!(
        "evidence: {{\"threat\":\"T16\",\"what\":\"{WHAT}\",{control}\"cases\":{cases},\
         \"failures\":{failures},\"seed\":{seed}}}"
    );
    failures
}

#[test]
fn t16_any_step_of_the_protocol() {
    assert_eq!(run(None), 0);
}

#[cfg(feature = "negative_control")]
mod control {
    use super::*;
    use portal_device::guard::without;
    use portal_protocol::guard::Guard;

    fn fails(guard: Guard, name: &str) {
        assert!(without(guard, || run(Some(name))) > 0, "nothing failed");
    }

    #[test]
    fn control_t16_protocol_sections() {
        fails(Guard::Sections, "others' sections are for reading only");
    }

    #[test]
    fn control_t16_protocol_token() {
        fails(Guard::Token, "who comes back shows its token");
    }

    #[test]
    fn control_t16_protocol_turn() {
        fails(Guard::Turn, "one request at a time");
    }
}
