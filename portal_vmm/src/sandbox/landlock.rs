//! Landlock (kernel documentation, `userspace-api/landlock.rst`): the calling
//! thread loses every access to the file system and to TCP ports that it has not
//! opened yet.

use crate::VmmError;
use landlock::ABI;
use landlock::Access;
use landlock::AccessFs;
use landlock::AccessNet;
use landlock::CompatLevel;
use landlock::Compatible;
use landlock::Ruleset;
use landlock::RulesetAttr;
use landlock::RulesetStatus;
use std::sync::Once;

/// The newest set of rights that is asked for; older kernels give what they have.
const NEWEST: ABI = ABI::V5;

pub(super) fn restrict() -> Result<(), VmmError> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self)
        .map_err(|error| VmmError::Sandbox {
            what: "Landlock",
            reason: error.to_string(),
        })?;
    if status.ruleset == RulesetStatus::NotEnforced {
        static SAID: Once = Once::new();
        SAID.call_once(|| tracing::warn!("this kernel has no Landlock; seccomp stands alone"));
    }
    Ok(())
}
