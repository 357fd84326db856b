//! Clients against a listener on a real log.
