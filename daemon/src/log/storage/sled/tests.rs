use std::ops::Range;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::log::LOCK;

const OTHER: &str = "00000000000000000001-00000002.seg";

const NAME: &str = "00000000000000000001-00000001.seg";

struct Site {
    dir: tempfile::TempDir,
    databases: Databases,
}

impl Site {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), databases: Databases::new(true) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn create(&self) -> Arc<dyn File> {
        self.databases.create(&self.path(NAME)).unwrap()
    }

    /// As after a restart.
    fn open(&mut self) -> Arc<dyn File> {
        self.databases = Databases::new(true);
        self.databases.open(&self.path(NAME)).unwrap()
    }

    fn database(&self) -> PathBuf {
        self.database_of(NAME)
    }

    fn database_of(&self, name: &str) -> PathBuf {
        directory(self.dir.path(), database_of(&self.path(name)).unwrap())
    }
}

fn content(file: &Arc<dyn File>) -> Vec<u8> {
    let mut bytes = vec![0xaa; file.len().unwrap() as usize + 100];
    let read = file.read_at(&mut bytes, 0).unwrap();
    assert_eq!(read as u64, file.len().unwrap());
    bytes.truncate(read);
    bytes
}

#[test]
fn a_file_holds_what_was_written_wherever_that_was() {
    let mut rng = fastrand::Rng::with_seed(7);
    for round in 0..20 {
        let mut site = Site::new();
        let mut file = site.create();
        let mut model: Vec<u8> = Vec::new();
        for _ in 0..30 {
            let at = match rng.u8(..4) {
                0 => rng.usize(..=model.len() + 5000),
                _ => model.len(),
            };
            match rng.u8(..10) {
                0 => {
                    let len = rng.usize(..=model.len() + 5000);
                    file.truncate(len as u64).unwrap();
                    model.resize(len, 0);
                }
                1 => {
                    file.sync_data().unwrap();
                    drop(file);
                    file = site.open();
                }
                _ => {
                    let len = if rng.bool() { rng.usize(..300) } else { rng.usize(..20_000) };
                    let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(1..)).take(len).collect();
                    file.write_at(&bytes, at as u64).unwrap();
                    if !bytes.is_empty() {
                        model.resize(model.len().max(at + len), 0);
                        model[at..at + len].copy_from_slice(&bytes);
                    }
                }
            }
            assert_eq!(file.len().unwrap(), model.len() as u64, "round {round}");
            let part: Range<usize> = {
                let from = rng.usize(..=model.len());
                from..rng.usize(from..=model.len())
            };
            let mut bytes = vec![0xaa; part.len()];
            assert_eq!(file.read_at(&mut bytes, part.start as u64).unwrap(), part.len());
            assert!(bytes == model[part.clone()], "round {round}: {part:?}");
        }
        assert!(content(&file) == model, "round {round}");
        drop(file);
        assert!(content(&site.open()) == model, "round {round}");
        assert!(fs::read_dir(site.database().join("blobs")).map_or(0, Iterator::count) == 0);
    }
}

#[test]
fn its_length_is_known_without_opening_the_database_unless_it_was_written_since() {
    let mut site = Site::new();
    let file = site.create();
    file.write_at(&[7; 10_000], 0).unwrap();
    file.sync_data().unwrap();
    let length = site.database().join("length");
    assert!(!length.exists());
    drop(file);
    let noted = fs::read_to_string(&length).unwrap();
    assert!(noted.starts_with("10000 "), "{noted:?}");
    fs::write(&length, noted.replace("10000", "10008")).unwrap();
    assert_eq!(site.open().len().unwrap(), 10_000, "one that does not verify is not believed");
    fs::write(&length, noted).unwrap();
    let file = site.open();
    fs::rename(site.database().join("db"), site.path("away")).unwrap();
    assert_eq!(file.len().unwrap(), 10_000);
    fs::rename(site.path("away"), site.database().join("db")).unwrap();
    file.write_at(b"more", 10_000).unwrap();
    assert!(!length.exists());
    // Not synced: nobody may rely on what is there.
    drop(file);
    assert!(!length.exists());
}

#[test]
fn removed_it_goes_with_its_database_and_who_has_it_open_reads_on() {
    let mut site = Site::new();
    let file = site.create();
    file.write_at(&[7; 10_000], 0).unwrap();
    file.sync_data().unwrap();
    drop(file);
    let file = site.open();
    let database = site.database();
    site.databases.unlink(&site.path(NAME)).unwrap();
    assert!(database.is_dir(), "the removal of its head is not durable");
    site.databases.sync_dir(site.dir.path()).unwrap();
    assert_eq!(fs::read_dir(site.dir.path()).unwrap().count(), 0);
    assert_eq!(content(&file), [7; 10_000]);
    assert!(content(&site.create()).is_empty());
}

#[test]
fn a_file_that_takes_another_ones_place_does_so_at_once() {
    let mut site = Site::new();
    let old = site.create();
    old.write_at(&[7; 10_000], 0).unwrap();
    old.sync_data().unwrap();
    let database = site.database();
    let unfinished = site.path(segment::REWRITTEN);
    let new = site.databases.create(&unfinished).unwrap();
    new.write_at(&[8; 9_000], 0).unwrap();
    new.sync_data().unwrap();
    site.databases.rename(&unfinished, &site.path(NAME)).unwrap();
    assert_eq!(content(&site.databases.open(&site.path(NAME)).unwrap()), [8; 9_000]);
    assert_eq!(content(&old), [7; 10_000]);
    assert!(database.is_dir(), "a crash may bring it back");
    site.databases.sync_dir(site.dir.path()).unwrap();
    assert!(!database.exists() && site.database().is_dir());
    drop((old, new));
    assert_eq!(content(&site.open()), [8; 9_000]);
}

#[test]
fn set_aside_it_goes_with_its_database_unless_it_is_a_copy() {
    let site = Site::new();
    fs::create_dir(site.path("quarantine")).unwrap();
    let file = site.create();
    file.write_at(&[7; 10_000], 0).unwrap();
    file.sync_data().unwrap();
    fs::copy(site.path(NAME), site.path(OTHER)).unwrap();
    let aside = |name| site.path("quarantine").join(name);
    site.databases.rename(&site.path(OTHER), &aside(OTHER)).unwrap();
    site.databases.unlink(&aside(OTHER)).unwrap();
    assert_eq!(content(&file), [7; 10_000]);
    site.databases.rename(&site.path(NAME), &aside(NAME)).unwrap();
    file.write_at(&[8; 10_000], 10_000).unwrap();
    drop(file);
    assert!(!is_used(site.dir.path()));
    assert_eq!(content(&Databases::new(true).open(&aside(NAME)).unwrap()).len(), 20_000);
}

#[test]
fn either_copy_of_the_number_leads_to_the_database() {
    let mut site = Site::new();
    let file = site.create();
    file.write_at(&[7; 10_000], 0).unwrap();
    file.sync_data().unwrap();
    drop(file);
    let whole = fs::read(site.path(NAME)).unwrap();
    for lost in [0..512, 512..1024] {
        let mut bytes = whole.clone();
        bytes[lost].fill(0xff);
        fs::write(site.path(NAME), bytes).unwrap();
        assert_eq!(content(&site.open()), [7; 10_000]);
    }
}

#[test]
fn a_database_that_does_not_open_is_set_aside_and_its_head_is_left() {
    let mut site = Site::new();
    for round in 0..2 {
        let file = site.create();
        file.write_at(&[7; 300_000], 0).unwrap();
        file.sync_data().unwrap();
        drop(file);
        fs::write(site.database().join("conf"), [7; 99]).unwrap();
        let file = site.open();
        assert_eq!(file.len().unwrap(), 300_000, "as noted");
        let mut bytes = vec![0; 300_000];
        assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 4096, "round {round}");
        assert_eq!(content(&file), [7; 4096]);
        assert!(file.write_at(b"more", 4096).is_err());
        assert!(!site.database().exists());
        let aside = fs::read_dir(site.path("quarantine")).unwrap();
        assert_eq!(aside.count(), 1, "one is kept");
        // What goes on in its place.
        file.truncate(2000).unwrap();
        file.write_at(&[8; 10_000], 2000).unwrap();
        file.sync_data().unwrap();
        assert_eq!(content(&file)[..], [&[7; 2000][..], &[8; 10_000]].concat());
        drop(file);
        site.databases.unlink(&site.path(NAME)).unwrap();
        site.databases.sync_dir(site.dir.path()).unwrap();
    }
}

#[test]
fn a_flipped_bit_anywhere_in_a_database_costs_this_file_at_most() {
    for byte in 0..40 {
        let mut site = Site::new();
        let file = site.create();
        file.write_at(&[7; 100_000], 0).unwrap();
        file.sync_data().unwrap();
        drop(file);
        let db = site.database().join("db");
        let mut bytes = fs::read(&db).unwrap();
        let at = bytes.len() * byte / 40;
        bytes[at] ^= 8;
        fs::write(&db, bytes).unwrap();
        let file = site.open();
        let mut bytes = vec![0xaa; 100_000];
        let read = file.read_at(&mut bytes, 0).unwrap();
        assert!(read >= 4096 && bytes[..4096] == [7; 4096]);
        file.truncate(4096).unwrap();
        file.write_at(&[8; 10_000], 4096).unwrap();
        file.sync_data().unwrap();
        assert_eq!(content(&file)[4096..], [8; 10_000]);
    }
}

#[test]
fn who_only_looks_sets_nothing_aside() {
    let site = Site::new();
    let file = site.create();
    file.write_at(&[7; 300_000], 0).unwrap();
    file.sync_data().unwrap();
    drop(file);
    fs::write(site.database().join("conf"), [7; 99]).unwrap();
    let file = Databases::to_look().open(&site.path(NAME)).unwrap();
    assert_eq!(file.read_at(&mut [0; 9000], 0).unwrap(), 4096);
    assert!(site.database().is_dir());
}

#[test]
fn a_crash_while_it_is_opened_is_no_damage_until_it_happens_again_and_again() {
    let mut site = Site::new();
    let file = site.create();
    file.write_at(&[7; 10_000], 0).unwrap();
    file.sync_data().unwrap();
    drop(file);
    let marker = site.database().join("opening");
    fs::write(&marker, "....").unwrap();
    assert_eq!(content(&site.open()), [7; 10_000]);
    assert!(!marker.exists());
    fs::write(&marker, ".....").unwrap();
    let file = site.open();
    assert_eq!(file.read_at(&mut [0; 9000], 0).unwrap(), 4096);
}

#[test]
fn plain_files_stay_plain_whatever_the_engine_is() {
    let site = Site::new();
    fs::write(site.path(NAME), [7; 10_000]).unwrap();
    let file = site.databases.open(&site.path(NAME)).unwrap();
    file.write_at(&[8; 10_000], 10_000).unwrap();
    assert_eq!(fs::metadata(site.path(NAME)).unwrap().len(), 20_000);
    let ledger = site.databases.create(&site.path("ledger")).unwrap();
    ledger.write_at(&[8; 10_000], 0).unwrap();
    assert_eq!(fs::metadata(site.path("ledger")).unwrap().len(), 10_000);
    let files = Databases::new(false);
    files.create(&site.path(OTHER)).unwrap().write_at(&[8; 10_000], 0).unwrap();
    assert!(!is_used(site.dir.path()));
    assert_eq!(content(&site.databases.open(&site.path(OTHER)).unwrap()), [8; 10_000]);
}

#[test]
fn who_takes_the_lock_removes_databases_without_a_head() {
    let site = Site::new();
    let file = site.create();
    file.write_at(&[7; 10_000], 0).unwrap();
    drop(file);
    let orphan = directory(site.dir.path(), 7);
    fs::create_dir_all(orphan.join("blobs")).unwrap();
    let lock = site.databases.lock(&site.path(LOCK)).unwrap();
    assert!(lock.is_some() && !orphan.exists() && site.database().is_dir());
    fs::create_dir_all(&orphan).unwrap();
    assert!(site.databases.lock(&site.path(LOCK)).unwrap().is_none());
    assert!(orphan.exists(), "it may be of who has the lock");
}

#[test]
fn sled_takes_up_to_four_times_the_bytes_of_a_segment_on_disk_and_one_mebibyte() {
    for frame in [250, 2_500, 27_000, 1 << 20] {
        let site = Site::new();
        let file = site.create();
        let bytes: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(frame).collect();
        let mut len = 0;
        while len < 2 << 20 {
            file.write_at(&bytes, len).unwrap();
            file.sync_data().unwrap();
            len += frame as u64;
        }
        drop(file);
        let taken = fs::metadata(site.database().join("db")).unwrap().blocks() * 512;
        let most = 4 * len + (1 << 20);
        assert!((2 * len..most).contains(&taken), "{taken} for {len} in frames of {frame}");
    }
}
