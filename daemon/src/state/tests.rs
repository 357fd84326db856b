use super::*;

const EPOCH_A: Epoch = Epoch(0xa);

fn put(key: &str, value: &str) -> Change {
    (key.into(), Some(value.into()))
}

fn open(dir: &Path) -> (State, Opened) {
    State::open(dir).unwrap()
}

fn entries(tree: &Tree) -> Vec<(String, String)> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    tree.load().unwrap().into_iter().map(|(k, v)| (text(k), text(v))).collect()
}

#[test]
fn a_restart_finds_what_was_applied() {
    let dir = tempfile::tempdir().unwrap();
    let (state, opened) = open(dir.path());
    assert_eq!(opened, Opened::Fine);
    let tree = state.tree("retained").unwrap();
    assert_eq!((tree.applied(), entries(&tree)), (0, vec![]));
    tree.apply(vec![put("a", "1"), put("b", "2"), put("", "empty")], 7).unwrap();
    tree.apply(vec![("b".into(), None)], 9).unwrap();
    state.cursors().set("cloud", 5).unwrap();
    state.cursors().set("other", 6).unwrap();
    state.cursors().retain(|name| name != "other").unwrap();
    drop((state, tree));
    let (state, opened) = open(dir.path());
    assert_eq!(opened, Opened::Fine);
    let tree = state.tree("retained").unwrap();
    let expected = [("", "empty"), ("a", "1")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!((tree.applied(), entries(&tree)), (9, expected.to_vec()));
    assert_eq!((state.cursors().get("cloud"), state.cursors().get("other")), (Some(5), None));
}

/// A state with two checkpoints behind it, and one change later than both.
fn grown(dir: &Path) {
    let (state, _) = open(dir);
    state.bind(EPOCH_A).unwrap();
    let (retained, alerts) = (state.tree("retained").unwrap(), state.tree("alerts").unwrap());
    for round in 1..=2_u64 {
        for n in 0..50 {
            let change = put(&format!("plant/{n}"), &format!("{round}").repeat(50));
            retained.apply(vec![change], round * 100 + n).unwrap();
        }
        alerts.apply(vec![put("rule", &round.to_string())], round * 100).unwrap();
        state.cursors().set("cloud", round * 100).unwrap();
        let older = (round - 1) * 100;
        assert_eq!(state.checkpoint().unwrap().lsn, older, "the older one counts");
    }
    retained.apply(vec![put("late", "x")], 300).unwrap();
}

/// What [`grown`] left, as far as it was in the `round`-th checkpoint.
fn assert_at_least(dir: &Path, round: u64) {
    let (state, _) = open(dir);
    let (retained, alerts) = (state.tree("retained").unwrap(), state.tree("alerts").unwrap());
    let applied = retained.applied();
    assert!(applied == 300 || applied == round * 100 + 49, "{applied}");
    let entries = entries(&retained);
    assert_eq!(entries.len(), if applied == 300 { 51 } else { 50 });
    let expected = if applied == 300 { 2 } else { round };
    let old = entries.iter().filter(|(k, v)| k != "late" && *v != expected.to_string().repeat(50));
    assert_eq!(old.count(), 0);
    assert!(alerts.applied() >= round * 100);
    assert!(state.cursors().get("cloud") >= Some(round * 100));
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let to = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(file, to).unwrap();
    }
}

#[test]
fn a_flipped_byte_in_any_file_of_sled_costs_time_and_no_data() {
    let original = tempfile::tempdir().unwrap();
    grown(original.path());
    let mut rebuilt = 0;
    for (n, file) in files(&original.path().join("db")).iter().enumerate() {
        let size = std::fs::metadata(file).unwrap().len() as usize;
        let used = size.min(40_000);
        for at in [0, 5, 17, 60, used / 3, used / 2, used - 5].into_iter().filter(|at| *at < size) {
            let dir = tempfile::tempdir().unwrap();
            copy(original.path(), dir.path());
            let file = dir.path().join(file.strip_prefix(original.path()).unwrap());
            let mut bytes = std::fs::read(&file).unwrap();
            bytes[at] ^= 0xff;
            std::fs::write(&file, bytes).unwrap();
            let (state, opened) = open(dir.path());
            assert_ne!(opened, Opened::InMemory, "file {n} byte {at}");
            rebuilt += usize::from(opened == Opened::Rebuilt);
            drop(state);
            assert_at_least(dir.path(), 2);
        }
    }
    assert!(rebuilt > 0, "no flip was noticed");
}

#[test]
fn garbage_and_lost_pieces_in_the_directory_of_sled_never_stop_the_start() {
    let original = tempfile::tempdir().unwrap();
    grown(original.path());
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..100 {
        let dir = tempfile::tempdir().unwrap();
        copy(original.path(), dir.path());
        let all = files(&dir.path().join("db"));
        let file = &all[random.usize(..all.len())];
        let mut bytes = std::fs::read(file).unwrap();
        let at = random.usize(..bytes.len().max(1));
        match random.u8(..4) {
            0 => std::fs::remove_file(file).unwrap(),
            1 => std::fs::write(file, &bytes[..at]).unwrap(),
            2 => {
                let end = (at + random.usize(1..4096)).min(bytes.len());
                random.fill(&mut bytes[at..end]);
                std::fs::write(file, bytes).unwrap();
            }
            _ => std::fs::write(file.with_file_name("snap.0000.generating"), bytes).unwrap(),
        }
        assert_at_least(dir.path(), 2);
    }
}

#[test]
fn a_database_that_killed_the_daemon_while_it_was_opened_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    grown(dir.path());
    std::fs::write(dir.path().join("db/opening"), "").unwrap();
    assert_eq!(open(dir.path()).1, Opened::Rebuilt);
    assert_at_least(dir.path(), 2);
    let quarantines = || {
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("quarantine-")).count()
    };
    assert_eq!(quarantines(), 1);
    std::fs::write(dir.path().join("db/opening"), "").unwrap();
    assert_eq!(open(dir.path()).1, Opened::Rebuilt);
    assert_eq!(quarantines(), 1);
}

#[test]
fn without_sled_the_newest_checkpoint_that_verifies_is_taken() {
    for cut in [0, 11, 100, 3000, usize::MAX] {
        let dir = tempfile::tempdir().unwrap();
        grown(dir.path());
        std::fs::remove_dir_all(dir.path().join("db")).unwrap();
        let newest = dir.path().join("checkpoint-0000000002");
        let mut bytes = std::fs::read(&newest).unwrap();
        match cut {
            usize::MAX => bytes[2000] ^= 1,
            _ => bytes.truncate(cut),
        }
        std::fs::write(&newest, bytes).unwrap();
        let (state, _) = open(dir.path());
        assert_eq!(state.tree("retained").unwrap().applied(), 149);
        drop(state);
        assert_at_least(dir.path(), 1);
    }
}

#[test]
fn the_last_two_checkpoints_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = open(dir.path());
    for _ in 0..4 {
        state.checkpoint().unwrap();
    }
    let mut names: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["checkpoint-0000000003", "checkpoint-0000000004", "db"]);
}

#[test]
fn a_cursor_that_went_back_stays_back() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = open(dir.path());
    state.cursors().set("cloud", 50).unwrap();
    state.checkpoint().unwrap();
    state.cursors().set("cloud", 1).unwrap();
    drop(state);
    assert_eq!(open(dir.path()).0.cursors().get("cloud"), Some(1));
}

#[test]
fn the_checkpoint_answers_for_the_read_models_that_are_open() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = open(dir.path());
    assert_eq!(state.checkpoint().unwrap(), Covered::NOTHING);
    assert_eq!(state.checkpoint().unwrap(), Covered::ALL);
    state.tree("gone").unwrap().apply(vec![put("k", "v")], 3).unwrap();
    drop(state);
    let (state, _) = open(dir.path());
    let retained = state.tree("retained").unwrap();
    retained.apply(vec![], 10).unwrap();
    state.checkpoint().unwrap();
    assert_eq!(state.checkpoint().unwrap(), Covered { lsn: 10, control: u64::MAX });
    retained.needs_control(7);
    state.checkpoint().unwrap();
    assert_eq!(state.checkpoint().unwrap(), Covered { lsn: 9, control: 7 });
    drop(state);
    std::fs::remove_dir_all(dir.path().join("db")).unwrap();
    let (state, _) = open(dir.path());
    assert_eq!(entries(&state.tree("gone").unwrap()).len(), 1);
}

#[test]
fn another_log_voids_every_lsn_and_keeps_the_entries() {
    let dir = tempfile::tempdir().unwrap();
    grown(dir.path());
    let (state, _) = open(dir.path());
    state.bind(EPOCH_A).unwrap();
    assert_eq!(state.tree("retained").unwrap().applied(), 300);
    drop(state);
    let (state, _) = open(dir.path());
    state.bind(Epoch(0xb)).unwrap();
    drop(state);
    let (state, _) = open(dir.path());
    let retained = state.tree("retained").unwrap();
    assert_eq!((retained.applied(), retained.load().unwrap().len()), (0, 51));
    assert_eq!(state.cursors().get("cloud"), None);
}

#[test]
fn the_newest_event_that_is_known_is_what_a_cursor_passed_or_a_read_model_saw() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = open(dir.path());
    assert_eq!(state.known().unwrap(), None);
    state.bind(EPOCH_A).unwrap();
    let known = || state.known().unwrap().map(|id| (id.epoch, id.lsn));
    assert_eq!(known(), Some((EPOCH_A, 0)));
    state.cursors().set("cloud", 5).unwrap();
    assert_eq!(known(), Some((EPOCH_A, 4)));
    state.tree("retained").unwrap().apply(vec![], 9).unwrap();
    state.checkpoint().unwrap();
    assert_eq!(known(), Some((EPOCH_A, 9)));
    drop(state);
    // From the checkpoint, too.
    std::fs::remove_dir_all(dir.path().join("db")).unwrap();
    assert_eq!(open(dir.path()).0.known().unwrap().unwrap().lsn, 9);
}

#[test]
fn a_second_daemon_leaves_the_database_of_the_first_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (first, _) = open(dir.path());
    first.tree("retained").unwrap().apply(vec![put("k", "v")], 1).unwrap();
    assert!(matches!(State::open(dir.path()), Err(StateError::InUse { .. })));
    first.tree("retained").unwrap().apply(vec![put("k", "w")], 2).unwrap();
    assert_eq!(first.failure(), None);
}

#[test]
fn a_disk_that_takes_no_database_leaves_the_state_in_memory() {
    // A directory that is there and refuses everything, to root too.
    let (state, opened) = open(Path::new("/proc/self/fdinfo"));
    assert_eq!(opened, Opened::InMemory);
    let tree = state.tree("retained").unwrap();
    tree.apply(vec![put("a", "1"), put("b", "2")], 5).unwrap();
    tree.apply(vec![("b".into(), None)], 6).unwrap();
    assert_eq!(state.tree("retained").unwrap().load().unwrap().len(), 1);
    state.cursors().set("cloud", 4).unwrap();
    assert!(matches!(state.checkpoint(), Err(StateError::Checkpoint(_))));
    assert_eq!(state.failure(), None);
}

#[test]
fn a_large_value_comes_back_from_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("checkpoint-0000000001"), "cut").unwrap();
    checkpoint::write(&FileSystem, dir.path(), |writer| {
        writer.item(&Item::Tree("model/retained".into(), 5))?;
        writer.item(&Item::Entry(Bytes(b"a"[..].into()), Bytes(vec![0; 100_000].into())))?;
        Ok(())
    })
    .unwrap();
    let (state, _) = open(dir.path());
    let tree = state.tree("retained").unwrap();
    assert_eq!((tree.applied(), tree.load().unwrap()[0].1.len()), (5, 100_000));
}

/// A full disk had left one checkpoint, a read of it failed once, and the database was lost with the
/// power.
#[test]
fn a_checkpoint_is_read_again_where_the_disk_fails_to_read_it_once() {
    let (sim, dir) = (crate::log::storage::sim::Sim::new(1), Path::new("/state"));
    let open = || State::open_simulated(Arc::new(sim.clone()), dir, &BTreeMap::new()).unwrap();
    let state = open();
    state.tree("retained").unwrap().apply(vec![put("a", "1")], 7).unwrap();
    state.checkpoint().unwrap();
    sim.fail_reads(1);
    let state = open();
    assert_eq!(state.tree("retained").unwrap().applied(), 7);
}

/// Control records move no LSN: the database came back as it was some seconds before, at the same LSN
/// as the checkpoint, and without what the log had been freed of.
#[test]
fn at_the_same_lsn_the_checkpoint_is_believed() {
    let (sim, dir) = (crate::log::storage::sim::Sim::new(1), Path::new("/state"));
    let open = |database| State::open_simulated(Arc::new(sim.clone()), dir, database).unwrap();
    let nothing = BTreeMap::new();
    let state = open(&nothing);
    let tree = state.tree("sessions").unwrap();
    tree.apply(vec![put("a", "1")], 7).unwrap();
    let earlier = state.snapshot().unwrap();
    tree.apply(vec![put("b", "2"), ("a".into(), None)], 7).unwrap();
    state.checkpoint().unwrap();
    let expected = [("b".to_owned(), "2".to_owned())];
    assert_eq!(entries(&open(&earlier).tree("sessions").unwrap()), expected);
}
