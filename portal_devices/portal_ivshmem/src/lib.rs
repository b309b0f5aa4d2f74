//! ivshmem as a state machine that knows no VMM
