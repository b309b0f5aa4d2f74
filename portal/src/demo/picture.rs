//! What just happened, drawn.

/// The demo's partitions and what lies between them.
pub(crate) const TEXT: &str = "
   partition A                one region of 64 MiB             partition B
 ┌──────────────┐           ┌──────────────────────┐         ┌──────────────┐
 │ 1 vCPU       │           │ host's pages         │         │       1 vCPU │
 │ 16 MiB RAM   │──writes──▶│ section of A         │──reads─▶│   16 MiB RAM │
 │ WARP kernel, │◀──reads───│ section of B         │◀─writes─│ WARP kernel, │
 │ one agent    │           │ section of the host  │         │    one agent │
 └──────┬───────┘           └──────────────────────┘         └──────▲───────┘
        │  doorbell: a store ─▶ ioeventfd ─▶ irqfd ─▶ interrupt     │
        └───────────────────────────────────────────────────────────┘
 Nobody writes where somebody else does: the second-stage tables forbid it.
";
