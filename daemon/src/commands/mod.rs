//! One file a command of `tidegate`.
