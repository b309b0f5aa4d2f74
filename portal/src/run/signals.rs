//! Ctrl-C and SIGTERM: the first asks for a clean stop, the second ends at once.

use crate::exit::Failure;
use crate::exit::Kind;
use signal_hook::consts::TERM_SIGNALS;
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

/// Whether a signal has asked for a stop.
#[derive(Debug, Clone)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens for SIGINT, SIGTERM and SIGQUIT from now on.
    pub(super) fn listen() -> Result<Self, Failure> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in TERM_SIGNALS {
            let code = i32::from(Kind::Interrupted as u8);
            // In this order: the second signal finds the flag set by the first.
            flag::register_conditional_shutdown(*signal, code, Arc::clone(&asked))
                .and_then(|_| flag::register(*signal, Arc::clone(&asked)))
                .map_err(|e| Failure::new(Kind::Failed, format!("cannot handle signals: {e}")))?;
        }
        Ok(Self(asked))
    }

    /// Whether one has come.
    pub(super) fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
