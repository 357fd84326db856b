//! `[log]`: the events on disk.

use crate::reader::Section;
use crate::value::{ByteSize, Choice, Span};

/// The least `max-size`: with less there is no room for events beside the state's database and a sink's dead
/// letters.
const LEAST: ByteSize = ByteSize::mib(4);

/// `[log]`
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// What new segments are kept in. Default `"log"`.
    pub engine: LogEngine,
    /// Bytes on disk of everything that the gateway keeps. Dead letters, quarantine, ledger, ballast and two
    /// segments and a quarter have their bounds set aside of it, and state a sixteenth (64 MiB at most), or
    /// what it takes if that is more; the log has the rest ([`crate::Budget`]), which is to be a quarter and
    /// four segments at least. `[[lane]]` says how lanes share that, and what happens when it is used up.
    /// 4 MiB to 64 TiB; default 1 GiB.
    pub max_size: ByteSize,
    /// Bytes of one segment file. 64 KiB to 64 MiB; default 16 MiB, or a 64th of `max-size` if that is less, but
    /// 8 MiB at least, or a sixteenth of `max-size` if that is less. No segment is larger than a quarter of the
    /// smallest lane's `max-size`.
    pub segment_size: ByteSize,
    /// How long events stay on disk after every sink has them. 0 s to a year; default 0 s.
    pub retain: Span,
    /// Bytes on disk held back beside the log, and given up when the disk is full, so that the log can
    /// be freed; no more than a sixteenth of `max-size`. 0 to 1 GiB; default 4 MiB.
    pub ballast: ByteSize,
    /// Bytes of the file system that stay free for others, or a sixteenth of it if that is less: beyond it
    /// the log takes no more. 0 to 64 TiB; default 64 MiB.
    pub min_free: ByteSize,
    /// Bytes of what was set aside as damaged or foreign; beyond it the oldest of it is removed. 64 KiB
    /// to 64 GiB; default 64 MiB, or a sixteenth of `max-size` if that is less.
    pub max_quarantine: ByteSize,
    /// Bytes of the loss ledger; beyond it its older entries are merged. 4 KiB to 16 MiB; default
    /// 256 KiB, or a 64th of `max-size` if that is less.
    pub max_ledger: ByteSize,
    /// How what goes to disk is compressed. Default `"none"`.
    pub compression: LogCompression,
    /// Bytes a day that may be written to flash, in whole pages of 4 KiB; beyond that pace commits wait for
    /// more events, up to `commit.max-stretch`, and beyond the sum there is a warning. 1 MiB to 64 TiB; if not
    /// given, there is no budget.
    pub daily_write_budget: Option<ByteSize>,
    /// `[log.commit]`
    pub commit: Commit,
}

/// What the log's segments are kept in. Those that are there are read whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogEngine {
    /// `"log"`: a file each.
    Log,
    /// `"sled"`: a sled database each.
    Sled,
}

impl Choice for LogEngine {
    const WORDS: &'static [(&'static str, Self)] = &[("log", Self::Log), ("sled", Self::Sled)];
}

/// How the events of a commit are compressed, together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogCompression {
    /// `"none"`
    None,
    /// `"lz4"`: costs little time.
    Lz4,
    /// `"deflate"`: saves more of the flash.
    Deflate,
}

impl Choice for LogCompression {
    const WORDS: &'static [(&'static str, Self)] =
        &[("none", Self::None), ("lz4", Self::Lz4), ("deflate", Self::Deflate)];
}

/// `[log.commit]`: latency against wear of the flash.
#[derive(Debug, Clone, PartialEq)]
pub struct Commit {
    /// How long a commit waits for more events. 0 s to 1 min; default 0 s: as soon as the disk is
    /// free.
    pub max_delay: Span,
    /// How long a commit waits for more events at most, where `daily-write-budget` asks for it. 0 s to 1 min;
    /// default 1 s.
    pub max_stretch: Span,
    /// Bytes that end that wait, and that one commit holds at most. 4 KiB to a quarter of a segment; default
    /// 1 MiB, or that.
    pub max_bytes: ByteSize,
}

impl Default for Log {
    fn default() -> Self {
        Self::of(ByteSize::gib(1))
    }
}

impl Log {
    pub(crate) fn read(section: &Section<'_>) -> Self {
        let so = "expected it in [[lane]] with name = \"default\"";
        section.refuse_key("when-full", "is said of each lane", so);
        let bounds = LEAST..=ByteSize::gib(64 << 10);
        let default = Self::of(section.bounded("max-size", ByteSize::gib(1), bounds));
        let segment_size = section.bounded(
            "segment-size",
            default.segment_size,
            ByteSize::kib(64)..=ByteSize::mib(64),
        );
        Self {
            engine: section.or("engine", default.engine),
            max_size: default.max_size,
            segment_size,
            retain: section.bounded(
                "retain",
                default.retain,
                Span::seconds(0)..=Span::seconds(366 * 86_400),
            ),
            ballast: section.bounded("ballast", default.ballast, ByteSize(0)..=ByteSize::gib(1)),
            min_free: section.bounded(
                "min-free",
                default.min_free,
                ByteSize(0)..=ByteSize::gib(64 << 10),
            ),
            max_quarantine: section.bounded(
                "max-quarantine",
                default.max_quarantine,
                ByteSize::kib(64)..=ByteSize::gib(64),
            ),
            max_ledger: section.bounded(
                "max-ledger",
                default.max_ledger,
                ByteSize::kib(4)..=ByteSize::mib(16),
            ),
            compression: section.or("compression", default.compression),
            daily_write_budget: section
                .get_bounded("daily-write-budget", ByteSize::mib(1)..=ByteSize::gib(64 << 10)),
            commit: section.table("commit", |section| Commit::read(section, segment_size)),
        }
    }

    /// Where nothing but `max-size` is said.
    fn of(max_size: ByteSize) -> Self {
        let part = |of: u64| ByteSize(max_size.0 / of);
        // Where max-size is refused, it is not the segments' fault.
        let roomy = part(64).clamp(ByteSize::mib(8), ByteSize::mib(16));
        let segment_size = part(16).min(roomy).max(ByteSize::kib(64));
        Self {
            engine: LogEngine::Log,
            max_size,
            segment_size,
            retain: Span::seconds(0),
            ballast: ByteSize::mib(4),
            min_free: ByteSize::mib(64),
            max_quarantine: part(16).min(ByteSize::mib(64)),
            max_ledger: part(64).min(ByteSize::kib(256)),
            compression: LogCompression::None,
            daily_write_budget: None,
            commit: Commit::of(segment_size),
        }
    }

    /// What of `ballast` is held: no more than a sixteenth of `max_size`.
    pub fn held_ballast(&self) -> ByteSize {
        self.ballast.min(ByteSize(self.max_size.0 / 16))
    }
}

impl Commit {
    /// Where nothing is said of it, of segments of this size.
    fn of(segment: ByteSize) -> Self {
        Self {
            max_delay: Span::seconds(0),
            max_stretch: Span::seconds(1),
            max_bytes: ByteSize(segment.0 / 4).min(ByteSize::mib(1)),
        }
    }

    fn read(section: &Section<'_>, segment: ByteSize) -> Self {
        let default = Self::of(segment);
        Self {
            max_delay: section.bounded(
                "max-delay",
                default.max_delay,
                Span::seconds(0)..=Span::seconds(60),
            ),
            max_stretch: section.bounded(
                "max-stretch",
                default.max_stretch,
                Span::seconds(0)..=Span::seconds(60),
            ),
            max_bytes: section.bounded(
                "max-bytes",
                default.max_bytes,
                ByteSize::kib(4)..=ByteSize::mib(16),
            ),
        }
    }
}
