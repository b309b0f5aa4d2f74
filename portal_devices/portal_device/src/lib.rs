//! The contract between a Portal device and the VMM that hosts it
