//! Regions by name, peer ids and the doorbell fabric between peers
