//! The event: what a source published, as the log keeps it and as a CloudEvent shows it.
//!
//! Plain types that the daemon and the edge services share; no I/O, no async runtime.

pub mod cloudevents;
pub mod id;
pub mod percent;
pub mod record;
pub mod time;
pub mod topic;
pub mod varint;

pub use id::{Epoch, EventId, Lane, Lsn};
pub use record::{Block, BlockBuilder, Draft, EventRef, Property, Qos};
pub use time::Received;
pub use topic::{Filter, TopicError};
