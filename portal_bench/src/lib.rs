//! Benchmarks of Portal against calibrated baselines of the same run
