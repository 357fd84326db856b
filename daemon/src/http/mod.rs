//! What every HTTP side of the daemon shares: the listener's, the receiver's, the operator's.
//!
//! HTTP/1.1 (hyper) over connections that are bounded in number, in the time a client may take for its
//! headers, for its body and for reading its answer, and in the memory that bodies take.

// A connection: accepted, served, ended in order.
pub(crate) mod server;
mod stall;
// A request: how its events travel, and its body.
pub(crate) mod body;
pub(crate) mod media;
