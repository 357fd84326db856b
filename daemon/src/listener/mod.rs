//! Bytes in: accept, codec, sessions.
