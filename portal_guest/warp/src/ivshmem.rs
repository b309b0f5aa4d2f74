//! ivshmem.
