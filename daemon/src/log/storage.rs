//! The disk behind a narrow trait.

/// What the log needs of a disk.
pub trait Storage: Send + Sync + std::fmt::Debug {}
