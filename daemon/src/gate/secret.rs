//! A password or token on its way to be verified.

use std::fmt;

/// Never shows: not in a log, a Debug, an error.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// What a client sent.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The secret itself, for verification only.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show() {
        let shown = format!("{:?} {:#?}", Secret::new(*b"hunter2"), Some(Secret::new(*b"hunter2")));
        assert!(!shown.contains("hunter"), "{shown}");
    }
}
