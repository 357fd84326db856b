//! What is compared: each takes groups of events, and answers when they are on disk.

use std::path::Path;

use crate::payload::{self, Event, Events};
use crate::{log, others, raw};

/// Something that keeps events.
pub(crate) trait Engine {
    /// Makes a group durable. It may answer while the group is on its way; then the next call waits for
    /// it, so that at most one is.
    fn commit(&mut self, group: &[Event]);

    /// Waits for what is on its way.
    fn finish(&mut self) {}
}

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// tidegate's, that writes over what was released: as it is after a while.
    Warm,
    /// The same, where no group is filled while the one before is synced.
    OneInFlight,
    /// tidegate's, in new files: as it is while it grows.
    Fresh,
    /// A file that grows: pwrite, fdatasync.
    Append,
    /// A file that was written before: pwrite, fdatasync.
    Prewritten,
    /// The same, its groups made and handed over by another thread.
    HandedOver,
    /// tidegate's, with its segments in sled databases.
    OnSled,
    /// sled, and an fdatasync that it does not do itself.
    Sled,
    Redb,
    Fjall,
}

impl Kind {
    pub(crate) const ALL: [Self; 10] = [
        Self::Warm,
        Self::OneInFlight,
        Self::Fresh,
        Self::Append,
        Self::Prewritten,
        Self::HandedOver,
        Self::OnSled,
        Self::Sled,
        Self::Redb,
        Self::Fjall,
    ];

    /// Whether it is somebody else's, or on it.
    pub(crate) fn is_peer(self) -> bool {
        matches!(self, Self::OnSled | Self::Sled | Self::Redb | Self::Fjall)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm log",
            Self::OneInFlight => "warm log, 1 in flight",
            Self::Fresh => "fresh log",
            Self::Append => "append",
            Self::Prewritten => "prewritten",
            Self::HandedOver => "prewritten by another thread",
            Self::OnSled => "log on sled",
            Self::Sled => "sled",
            Self::Redb => "redb",
            Self::Fjall => "fjall",
        }
    }

    /// A new one in the directory `dir`, for groups of so many of these events.
    pub(crate) fn begin(self, dir: &Path, count: usize, events: &mut Events) -> Box<dyn Engine> {
        let mut builder = payload::builder();
        payload::block(&mut builder, events.group(count));
        let bytes = builder.len();
        match self {
            Self::Warm => Box::new(log::Warm::create(dir, (count, bytes), events)),
            Self::OneInFlight => {
                Box::new(log::OneInFlight(log::Warm::create(dir, (count, bytes), events)))
            }
            Self::Fresh => Box::new(log::Ours::create(dir, bytes)),
            Self::Append => Box::new(raw::Append::create(dir, bytes)),
            Self::Prewritten => Box::new(raw::Prewritten::create(dir, bytes)),
            Self::HandedOver => Box::new(raw::HandedOver::create(dir, bytes)),
            Self::OnSled => Box::new(log::Ours::create_on_sled(dir, bytes)),
            Self::Sled => Box::new(others::Sled::create(dir)),
            Self::Redb => Box::new(others::Redb::create(dir)),
            Self::Fjall => Box::new(others::Fjall::create(dir)),
        }
    }
}
