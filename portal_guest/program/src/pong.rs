//! `portal-guest pong`: answers ping and bench.

use crate::Outcome;
use crate::Report;
use crate::cli;
use crate::cli::Place;
use crate::exit::Failure;
use crate::place::describe;
use crate::protocol::ECHO;
use crate::protocol::Word;
use crate::protocol::unexpected;
use crate::stream;
use hv_shmem::wait::WaitMode;
use portal_guest_linux::GuestError;
use portal_guest_linux::Link;
use portal_guest_linux::Loss;
use portal_guest_linux::Target;
use serde_json::json;

pub(crate) fn run(place: &Place, args: &cli::Pong) -> Outcome {
    let mut at = place.join()?;
    let about = describe(&at);
    let from = args.from.from.clone().unwrap_or(Target::Any);
    let mut served = 0;
    let mut answered = 0;
    loop {
        let options = place.link(ECHO, WaitMode::Adaptive);
        let mut link = match Link::accept(&mut at, &from, &options) {
            Ok(link) => link,
            // Nobody came any more.
            Err(GuestError::TooSlow { .. }) if args.forever && served > 0 => break,
            Err(error) => return Err(error.into()),
        };
        let peer = link.peer();
        served += 1;
        let done = serve(&mut link, &mut answered);
        link.close();
        match done {
            Ok(()) => {}
            // The next one may be faster than the last one's good-bye.
            Err(failure) if args.forever => eprintln!("warning: {}", failure.what),
            Err(failure) => return Err(failure),
        }
        if !args.forever {
            return Ok(report(&about, served, answered, &format!("peer {peer}")));
        }
    }
    Ok(report(&about, served, answered, &format!("{served} peers")))
}

fn report(about: &serde_json::Value, served: u64, answered: u64, whom: &str) -> Report {
    Report {
        text: format!("{whom}: {answered} round trips answered"),
        json: json!({
            "command": "pong",
            "place": about,
            "served": served,
            "answered": answered,
        }),
    }
}

/// Serves one peer until it says good-bye.
fn serve(link: &mut Link<'_>, answered: &mut u64) -> Result<(), Failure> {
    loop {
        let message = match link.recv("a ping") {
            Ok(message) => message,
            Err(GuestError::PeerLost {
                how: Loss::Left, ..
            }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match Word::decode(&message) {
            Some(Word::Ping(number)) => {
                *answered += 1;
                link.send(&Word::Pong(number).encode())?;
            }
            Some(Word::Mode(mode)) => {
                link.send(&message)?;
                link.set_mode(mode);
            }
            Some(Word::Stream { hashed, ring }) => {
                stream::take(link, hashed, ring, u64::MAX, &mut std::io::sink())?;
            }
            _ => return Err(unexpected(link.peer(), &message, "a ping, mode or stream")),
        }
    }
}
