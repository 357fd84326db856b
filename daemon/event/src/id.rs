//! Where an event stands in the log, and the id that follows from it.

use std::fmt;
use std::str::FromStr;

/// Log sequence number: an event's place in its lane. The first event has 1; there are no gaps.
pub type Lsn = u64;

/// Which log this is: drawn at random when a log is created, so that the ids of a log that replaced
/// another one on the same gateway are not taken for the old one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// A lane's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(pub u8);

/// An event's id: derived from its place in the log, so that sending it again, or replaying it,
/// gives the same one. Written `<epoch, 16 hex digits>-<lane>-<lsn>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId {
    /// The log.
    pub epoch: Epoch,
    /// The lane in it.
    pub lane: Lane,
    /// The place in the lane.
    pub lsn: Lsn,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.epoch, self.lane, self.lsn)
    }
}

/// A text that is not an [`EventId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not an event id of the form EPOCH-LANE-LSN")]
pub struct NotAnEventId;

impl FromStr for EventId {
    type Err = NotAnEventId;

    /// Accepts exactly what `Display` writes, so that one event has one id.
    fn from_str(text: &str) -> Result<Self, NotAnEventId> {
        let mut parts = text.splitn(3, '-');
        let (Some(epoch), Some(lane), Some(lsn)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(NotAnEventId);
        };
        let plain = |digits: &str| {
            !digits.is_empty()
                && digits.bytes().all(|b| b.is_ascii_digit())
                && (digits == "0" || !digits.starts_with('0'))
        };
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if epoch.len() != 16 || !epoch.bytes().all(hex) || !plain(lane) || !plain(lsn) {
            return Err(NotAnEventId);
        }
        Ok(Self {
            epoch: Epoch(u64::from_str_radix(epoch, 16).map_err(|_| NotAnEventId)?),
            lane: Lane(lane.parse().map_err(|_| NotAnEventId)?),
            lsn: lsn.parse().map_err(|_| NotAnEventId)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_was_written() {
        let id = EventId { epoch: Epoch(0xbeef), lane: Lane(0), lsn: u64::MAX };
        assert_eq!(id.to_string(), "000000000000beef-0-18446744073709551615");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn another_spelling_of_an_id_is_not_an_id() {
        for text in [
            "",
            "000000000000BEEF-0-1",
            "000000000000beef-0-01",
            "beef-0-1",
            "000000000000beef-300-1",
            "000000000000beef-0-+1",
            "000000000000beef-0",
            "000000000000beef-0-18446744073709551616",
        ] {
            assert_eq!(text.parse::<EventId>(), Err(NotAnEventId), "{text}");
        }
    }
}
