//! Taking a log's directory, and opening the log in it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tidegate_event::EventId;
use tracing::info;

use super::lane::{Lanes, NAMES, Names};
use super::quarantine::Quarantine;
use super::queue::Bounds;
use super::recovery::{Listed, OpenError, Place, Recovered, Recovery};
use super::shared::Shared;
use super::storage::{File, Storage, remove};
use super::writer::Writer;
use super::{LEDGER, LOCK, Ledger, Log, Options, beginning, lane, ledger, segment};

/// The names of files while they are written.
const UNFINISHED: [&str; 5] = [
    segment::UNFINISHED,
    segment::REWRITTEN,
    ledger::UNFINISHED,
    lane::UNFINISHED,
    beginning::UNFINISHED,
];

/// The directory of a log, taken: no other process opens it meanwhile.
#[derive(Debug)]
pub struct Claim {
    storage: Arc<dyn Storage>,
    options: Options,
    pub(super) bounds: Bounds,
    lock: Arc<dyn File>,
}

impl Claim {
    /// Creates the directory if it is missing, and takes it.
    pub fn new(storage: Arc<dyn Storage>, options: Options) -> Result<Self, OpenError> {
        let dir = &options.dir;
        storage.create_dir_all(dir).map_err(OpenError::io("create", dir))?;
        let lock = dir.join(LOCK);
        match storage.lock(&lock).map_err(OpenError::io("lock", &lock))? {
            Some(lock) => Ok(Self { storage, bounds: options.bounds(), options, lock }),
            None => Err(OpenError::Locked { path: lock }),
        }
    }

    /// Opens the log and starts its writer thread. `known` is the newest event that was read from it
    /// before, as far as anybody remembers: its LSN and those below are never given again.
    pub fn open(self, known: Option<EventId>) -> Result<(Arc<Log>, Recovery), OpenError> {
        let (log, writer, recovery) = self.open_unstarted(known)?;
        let thread = std::thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || writer.run())
            .map_err(OpenError::io("start the writer of", &log.shared.dir))?;
        *log.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok((Arc::new(log), recovery))
    }

    /// Opens the log, without a thread for its writer.
    pub(super) fn open_unstarted(
        self,
        known: Option<EventId>,
    ) -> Result<(Log, Writer, Recovery), OpenError> {
        let Self { storage, options, bounds, lock } = self;
        let dir = &options.dir;
        // Before anything is changed: a newer version refuses.
        let listed = Listed::read(&*storage, dir)?;
        let quarantine = Quarantine::new(Arc::clone(&storage), dir, options.max_quarantine);
        quarantine.look();
        let ledger = open_ledger(&storage, &options, &quarantine)?;
        let place = Place {
            storage: &storage,
            dir,
            lane: options.lane,
            ledger: &ledger,
            quarantine: &quarantine,
        };
        let mut recovered = place.recover(listed, known)?;
        remove_unfinished(&*storage, dir, &quarantine);
        let names = Names::read(&storage, dir).unwrap_or_else(|error| {
            quarantine.set_aside(NAMES, &error.to_string());
            Names::new()
        });
        let lanes = names.number(&storage, dir, options.lanes.clone());
        let lanes = Lanes::new(lanes, bounds.max_size);
        let shared =
            Shared::new(storage, options, lanes, bounds, &mut recovered, ledger, quarantine);
        let Recovered { next, sequence, active, spares, report, .. } = recovered;
        info!(
            dir = %shared.dir.display(), segments = shared.table().0.len(), bytes = shared.bytes(),
            last = shared.committed(), torn_bytes = report.torn_bytes,
            lost = report.quarantined.len(), set_aside = report.set_aside.len(), "log opened"
        );
        let shared = Arc::new(shared);
        shared.take_spares(spares);
        let writer = Writer::new(Arc::clone(&shared), active, next, sequence, lock);
        shared.begins_as_found();
        shared.ledger.hold_room();
        Ok((Log { shared, writer: Mutex::new(None) }, writer, report))
    }
}

/// What a crash left of files that were being written. Whatever else has such a name is set aside: it would be
/// in the way of the next one.
fn remove_unfinished(storage: &dyn Storage, dir: &Path, quarantine: &Quarantine) {
    for name in UNFINISHED {
        if let Err(error) = remove(storage, &dir.join(name)) {
            quarantine.set_aside(name, &error.to_string());
        }
    }
}

/// Opens the ledger; one that cannot be read is set aside.
pub(super) fn open_ledger(
    storage: &Arc<dyn Storage>,
    options: &Options,
    quarantine: &Quarantine,
) -> Result<Ledger, OpenError> {
    let path = options.dir.join(LEDGER);
    let open = || {
        let damaged = |bytes: &[u8]| quarantine.keep_copy(&path, bytes);
        Ledger::open(Arc::clone(storage), path.clone(), options.max_ledger, damaged)
    };
    open()
        .or_else(|error| {
            quarantine.set_aside(LEDGER, &error.to_string());
            open()
        })
        .map_err(OpenError::io("read", &path))
}
