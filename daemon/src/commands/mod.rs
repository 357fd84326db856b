//! One file a command of `tidegate`.

pub mod check;
pub mod failure;
