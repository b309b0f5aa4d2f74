//! System tests in real guests
