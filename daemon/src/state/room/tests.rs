use super::*;

const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;

/// 16 MiB and one sink.
fn config() -> Config {
    let text = "listener = [{ type = 'mqtt', bind = '[::1]:0' }]
                log.max-size = '16MiB'
                sink = [{ name = 'cloud', type = 'http', url = 'http://a' }]";
    Config::from_toml(text, "test.toml").unwrap()
}

fn set_aside(found: Found, retained: u64) -> u64 {
    Looks::default().set_aside(&config().budget(), &found, retained)
}

/// Dead letters, quarantine, ledger, ballast and state, as they are when nothing is there.
const BOUNDS: u64 = 2 * MIB + MIB + 512 * KIB + MIB + MIB;

fn nothing() -> Found {
    Found { dead_letters: 2 * MIB, ..Found::default() }
}

#[test]
fn what_has_a_bound_has_it_set_aside_and_more_if_it_takes_more() {
    assert_eq!(set_aside(nothing(), 0), BOUNDS);
    let within = Found {
        quarantine: MIB,
        ledger: 512 * KIB,
        ballast: MIB,
        database: 256 * KIB,
        checkpoint: 100 * KIB,
        checkpoints: 200 * KIB,
        ..nothing()
    };
    assert_eq!(set_aside(within, 100 * KIB), BOUNDS);
    let beyond = |found| set_aside(found, 0) - BOUNDS;
    assert_eq!(beyond(Found { quarantine: MIB + 1, ..within }), 1);
    assert_eq!(beyond(Found { ledger: 512 * KIB + 1, ..within }), 1);
    assert_eq!(beyond(Found { ballast: MIB + 1, ..within }), 1);
    assert_eq!(beyond(Found { unknown: 1, ..within }), 1);
    assert_eq!(beyond(Found { dead_letters: 2 * MIB + 1, ..within }), 1);
}

#[test]
fn a_state_that_grows_beyond_its_part_has_what_it_takes_and_a_checkpoint_more() {
    let state = |found, retained| set_aside(found, retained) - (BOUNDS - MIB);
    let quarter = 256 * KIB;
    let database = Found { database: 4 * MIB, ..nothing() };
    assert_eq!(state(database, 0), 4 * MIB + quarter);
    assert_eq!(state(database, 100 * KIB), 4 * MIB + 300 * KIB + quarter);
    let two = Found { checkpoints: 150 * KIB, checkpoint: 100 * KIB, ..database };
    assert_eq!(state(two, 0), 4 * MIB + 300 * KIB + quarter);
    assert_eq!(state(two, 120 * KIB), 4 * MIB + 360 * KIB + quarter);
    let many = Found { checkpoints: 900 * KIB, checkpoint: 100 * KIB, ..database };
    assert_eq!(state(many, 0), 4 * MIB + 900 * KIB + quarter);
}

#[test]
fn a_database_counts_as_large_as_it_was_of_late() {
    let budget = config().budget();
    let mut looks = Looks::default();
    let mut look = |database| looks.set_aside(&budget, &Found { database, ..nothing() }, 0);
    let small = look(4 * MIB);
    let large = look(5 * MIB);
    assert_eq!(large, small + MIB);
    for _ in 1..REMEMBERED {
        assert_eq!(look(4 * MIB), large);
    }
    assert_eq!(look(4 * MIB), small);
}

#[test]
fn what_goes_into_the_state_counts_as_there_once_it_has_had_time() {
    let mut looks = Looks::default();
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(looks.counted(at(0)), None, "nobody has looked");
    for second in 0..10 {
        looks.note_stateful(at(second), 100 * second);
        let settled = 100 * second.saturating_sub(SETTLED.as_secs());
        assert_eq!(looks.counted(at(second)), Some(settled));
    }
    assert!(looks.stateful.len() <= 4, "{looks:?}");
    assert_eq!(looks.counted(at(100)), Some(900));
}

#[test]
fn hardly_any_room_is_told_once_until_there_is_some_again() {
    let budget = config().budget();
    let mut looks = Looks::default();
    let mut tell = |others| {
        looks.others = others;
        looks.tell(&budget, &nothing());
        looks.told
    };
    assert!(!tell(BOUNDS));
    assert!(tell(BOUNDS + 6 * MIB));
    assert!(tell(BOUNDS + 5 * MIB), "it would be told again and again");
    assert!(!tell(BOUNDS));
}

#[test]
fn the_log_is_told_what_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    config.gateway.data_dir = dir.path().into();
    let options = crate::gateway::log_options(&config);
    let (log, _) = Log::open(Arc::new(crate::log::FileSystem), options).unwrap();
    assert_eq!(log.budget(), 16 * MIB);
    let retained = Gauge::default();
    let room = Room::new(&config, retained.clone());
    room.measure(&log, true);
    let before = log.budget();
    // Segments are smaller than the config says, because the lane of the alerts is.
    assert!((config.budget().left().0..16 * MIB - BOUNDS).contains(&before), "{before}");
    std::fs::create_dir_all(dir.path().join("state/db")).unwrap();
    std::fs::write(dir.path().join("state/db/db"), vec![1; 3 << 20]).unwrap();
    retained.set(100 << 10);
    room.measure(&log, false);
    assert_eq!(log.budget(), before, "it was not looked at");
    room.measure(&log, true);
    let less = 2 * MIB + (300 + 256) * KIB;
    assert!((before - less - 16 * KIB..=before - less).contains(&log.budget()));
}
