//! Saved state of a virtio PCI function: its registers, then the device's own.
//!
//! Distrusted: whoever wrote the bytes. Every accepted state is one that a driver
//! could have brought about by register writes. Where a queue stands is not part
//! of it: a device is saved with every request answered, so that the device's ring
//! in guest memory says it.
//!
//! # Layout, version 1
//!
//! | offset | width | what |
//! |---|---|---|
//! | 0 | 2 | virtio device id (compared) |
//! | 2 | 8 | features offered (compared) |
//! | 10 | 2 | queues (compared) |
//! | 12 | 256 | configuration space; read-only bits compared |
//! | 268 | 4 | feature word selected, device |
//! | 272 | 4 | feature word selected, driver |
//! | 276 | 8 | features taken |
//! | 284 | 2 | configuration vector |
//! | 286 | 1 | status |
//! | 287 | 1 | configuration generation |
//! | 288 | 2 | queue selected |
//! | 290 | 1 | ISR |
//! | 291 | 31 a queue | largest size (2, compared), size (2), vector (2), enabled (1), three addresses (8 each) |
//! | | 13 a vector | message address (8), data (4), mask (1) |
//! | | 8 | pending bits |
//! | | 4, 4 | tag and version of the device's state |
//! | | rest | the device's state |

use crate::VirtioPci;
use crate::common;
use crate::common::Common;
use crate::common::NO_VECTOR;
use crate::guard::Guard;
use portal_device::Device;
use portal_device::Effects;
use portal_device::RestoreError;
use portal_device::Saved;
use portal_device::SavedState;
use portal_device::guard::stands;
use portal_device::saved::Reader;
use portal_device::saved::Writer;

/// Tag of the transport: "VPCI".
const TAG: u32 = u32::from_le_bytes(*b"VPCI");
const VERSION: u32 = 1;
/// Bits of the ISR.
const ISR: u8 = 3;

pub(crate) fn save<D: Device>(function: &VirtioPci<D>) -> Saved {
    let inner = match function.device.save() {
        Saved::State(inner) => inner,
        other => return other,
    };
    let common = &function.common;
    let mut to = Writer::new();
    to.u16(function.about.id);
    to.u64(common.offered);
    to.u16(common.queues.len() as u16);
    function.config.save(&mut to);
    to.u32(common.offered_word);
    to.u32(common.taken_word);
    to.u64(common.taken);
    to.u16(common.config_vector);
    to.u8(common.status);
    to.u8(common.generation);
    to.u16(common.selected);
    to.u8(function.isr);
    for queue in &common.queues {
        to.u16(queue.most);
        to.u16(queue.size);
        to.u16(queue.vector);
        to.flag(queue.enabled);
        to.u64(queue.descriptors);
        to.u64(queue.driver);
        to.u64(queue.device);
    }
    function.msix.save(&mut to);
    to.u32(inner.device);
    to.u32(inner.version);
    for byte in inner.bytes {
        to.u8(byte);
    }
    Saved::State(to.finish(TAG, VERSION))
}

/// Reads everything first; the device's own state last of all that can fail.
pub(crate) fn restore<D: Device>(
    function: &mut VirtioPci<D>,
    saved: &SavedState,
    effects: &mut Effects,
) -> Result<(), RestoreError> {
    let mut from = saved.open(TAG, VERSION)?;
    let id = from.u16("device id")?;
    from.same("device id", id.into(), function.about.id.into())?;
    let offered = from.u64("features offered")?;
    from.same("features offered", offered, function.common.offered)?;
    let queues = from.u16("queues")?;
    from.same("queues", queues.into(), function.common.queues.len() as u64)?;
    let config = function.config.restore(&mut from)?;
    let mut common = function.common.clone();
    let isr = registers(&mut common, &mut from)?;
    let msix = function.msix.restore(&mut from)?;
    let (device, version) = (from.u32("device tag")?, from.u32("device version")?);
    let mut bytes = Vec::new();
    while let Ok(byte) = from.u8("device state") {
        bytes.push(byte);
    }
    from.end()?;
    let inner = SavedState {
        device,
        version,
        bytes,
    };
    let mut own = Effects::new();
    function.device.restore(&inner, &mut own)?;
    // What runs is another device's: it stops first.
    function.common.reset();
    function.sync_queues(false, effects);
    for effect in own.drain() {
        effects.push(effect);
    }
    function.config = config;
    function.common = common;
    function.isr = isr;
    function.msix = msix;
    function.sync(true, effects);
    Ok(())
}

/// The registers, each such as a driver could have left it; returns the ISR.
fn registers(common: &mut Common, from: &mut Reader<'_>) -> Result<u8, RestoreError> {
    let bad = |field, value: u64, limit: u64| {
        Err(RestoreError::OutOfRange {
            field,
            value,
            limit,
        })
    };
    common.offered_word = from.u32("device feature word")?;
    common.taken_word = from.u32("driver feature word")?;
    common.taken = from.u64("features taken")?;
    common.config_vector = vector(common.vectors, from)?;
    common.status = from.u8("status")?;
    common.generation = from.u8("generation")?;
    common.selected = from.u16("queue selected")?;
    let isr = from.u8("ISR")?;
    let status = common.status;
    let known = common::ACKNOWLEDGE
        | common::DRIVER
        | common::DRIVER_OK
        | common::FEATURES_OK
        | common::NEEDS_RESET
        | common::FAILED;
    let accepted = status & common::FEATURES_OK != 0;
    let driven = status & common::DRIVER_OK != 0;
    let broken = status & common::NEEDS_RESET != 0;
    let checks = stands(Guard::SavedRegisters);
    if checks && (status & !known != 0 || (driven && !accepted) || (broken && !driven)) {
        return bad("status", status.into(), known.into());
    }
    if checks && accepted && !common.acceptable(common.taken) {
        return bad("features taken", common.taken, common.offered);
    }
    if isr & !ISR != 0 {
        return bad("ISR", isr.into(), ISR.into());
    }
    let vectors = common.vectors;
    for queue in &mut common.queues {
        let most = from.u16("largest queue size")?;
        from.same("largest queue size", most.into(), queue.most.into())?;
        queue.size = from.u16("queue size")?;
        queue.vector = vector(vectors, from)?;
        queue.enabled = from.flag("queue enabled")?;
        queue.descriptors = from.u64("descriptors")?;
        queue.driver = from.u64("driver ring")?;
        queue.device = from.u64("device ring")?;
        if checks && (!queue.size.is_power_of_two() || queue.size > queue.most) {
            return bad("queue size", queue.size.into(), queue.most.into());
        }
        if checks && queue.enabled && !(accepted && queue.is_sound()) {
            return bad("queue enabled", queue.descriptors, 0);
        }
    }
    Ok(isr)
}

fn vector(vectors: u16, from: &mut Reader<'_>) -> Result<u16, RestoreError> {
    match from.u16("vector")? {
        vector if vector < vectors || vector == NO_VECTOR || !stands(Guard::SavedRegisters) => {
            Ok(vector)
        }
        vector => Err(RestoreError::OutOfRange {
            field: "vector",
            value: vector.into(),
            limit: vectors.into(),
        }),
    }
}
