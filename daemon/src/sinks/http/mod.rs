//! CloudEvents over HTTP (CloudEvents HTTP protocol binding 1.0.2).
