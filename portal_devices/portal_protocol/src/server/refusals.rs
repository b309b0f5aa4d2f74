//! The switchboard's errors as refusals.

use crate::Refusal;
use crate::RefusalCode;
use hv_shmem::name::Name;
use portal_switchboard::AdmissionError;
use portal_switchboard::StepError;

/// No region of this name; says which there are.
pub(super) fn no_region(region: &Name, known: impl Iterator<Item = Name>) -> Refusal {
    let known: Vec<String> = known.map(|name| name.to_string()).collect();
    let text = format!(
        "there is no region {region}; there are: {}",
        known.join(", ")
    );
    Refusal::new(RefusalCode::NoSuchRegion, text)
}

pub(super) fn of_admission(error: &AdmissionError) -> Refusal {
    let code = match error {
        AdmissionError::NoSuchRegion { .. } => RefusalCode::NoSuchRegion,
        AdmissionError::Full { .. } => RefusalCode::Full,
        AdmissionError::NoSuchId { .. } | AdmissionError::IdTaken { .. } => RefusalCode::Id,
        AdmissionError::NameTaken { .. } => RefusalCode::NameTaken,
        AdmissionError::Kind { .. } => RefusalCode::Kind,
        AdmissionError::Rights { .. } => RefusalCode::Rights,
        AdmissionError::Vectors { .. } | AdmissionError::VectorQuota { .. } => RefusalCode::Vectors,
        AdmissionError::NotAway { .. } => RefusalCode::Expired,
        _ => RefusalCode::Other,
    };
    Refusal::new(code, error.to_string())
}

pub(super) fn of_step(error: &StepError) -> Refusal {
    let code = match error {
        StepError::Stale(_) => RefusalCode::Expired,
        StepError::Step { .. } => RefusalCode::Step,
        _ => RefusalCode::Other,
    };
    Refusal::new(code, error.to_string())
}
