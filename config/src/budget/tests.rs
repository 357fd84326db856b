use crate::{ByteSize, Config};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn read(text: &str) -> Result<Config, String> {
    let text = format!("listener = [{{ type = 'mqtt', bind = '[::1]:0' }}]\n{text}");
    Config::from_toml(&text, "t").map_err(|problems| problems.to_string())
}

fn sinks(count: usize, more: &str) -> String {
    let sink = |n| format!("[[sink]]\nname = 'c{n}'\ntype = 'http'\nurl = 'http://a'\n{more}\n");
    (0..count).map(sink).collect()
}

#[test]
fn what_is_set_aside_and_what_is_left() {
    let budget = read(&sinks(1, "")).unwrap().budget();
    assert_eq!(budget.max_size, ByteSize::gib(1));
    assert_eq!(budget.dead_letters, ByteSize::mib(64));
    assert_eq!(budget.quarantine, ByteSize::mib(64));
    assert_eq!(budget.ledger, ByteSize::kib(512));
    assert_eq!(budget.ballast, ByteSize::mib(4));
    assert_eq!(budget.state, ByteSize::mib(64));
    assert_eq!(budget.segments, ByteSize::mib(36));
    // 791.5 MiB.
    assert_eq!(budget.left(), ByteSize::mib(791));
    assert_eq!(budget.retained(), ByteSize::mib(16));
    let small = read(&format!("log.max-size = '16MiB'\n{}", sinks(1, ""))).unwrap().budget();
    assert_eq!(small.left(), ByteSize::kib(8 * KIB + KIB / 4));
    assert_eq!((small.state, small.retained()), (ByteSize::mib(1), ByteSize::kib(256)));
    let large = read("log.max-size = '64TiB'").unwrap().budget();
    assert_eq!((large.state, large.ballast), (ByteSize::mib(64), ByteSize::mib(4)));
}

#[test]
fn defaults_are_parts_of_a_small_log() {
    let at = |size: &str| read(&format!("log.max-size = '{size}'")).unwrap().log;
    let figures = |size: &str| {
        let log = at(size);
        let sizes = [log.max_quarantine, log.max_ledger, log.segment_size, log.held_ballast()];
        (sizes.map(|size| size.0 / KIB), log.commit.max_bytes.0 / KIB)
    };
    assert_eq!(figures("64GiB"), ([64 * KIB, 256, 16 * KIB, 4 * KIB], KIB));
    assert_eq!(figures("1GiB"), ([64 * KIB, 256, 16 * KIB, 4 * KIB], KIB));
    assert_eq!(figures("1023MiB"), ([64 * KIB - 64, 256, 16 * KIB - 16, 4 * KIB], KIB));
    assert_eq!(figures("512MiB"), ([32 * KIB, 256, 8 * KIB, 4 * KIB], KIB));
    assert_eq!(figures("128MiB"), ([8 * KIB, 256, 8 * KIB, 4 * KIB], KIB));
    assert_eq!(figures("64MiB"), ([4 * KIB, 256, 4 * KIB, 4 * KIB], KIB));
    assert_eq!(figures("16MiB"), ([KIB, 256, KIB, KIB], 256));
    let small = "log.max-size = '8MiB'\nlimits.max-packet-size = '64KiB'\n";
    let small = read(small).unwrap().log;
    assert_eq!((small.max_ledger, small.segment_size), (ByteSize::kib(128), ByteSize::kib(512)));
    let own = "log.segment-size = '1MiB'\nlog.max-size = '128MiB'\n";
    assert_eq!(read(own).unwrap().log.commit.max_bytes, ByteSize::kib(256));
}

#[test]
fn dead_letters_share_an_eighth() {
    let each = |size: &str, count, more: &str| {
        let text = format!("log.max-size = '{size}'\n{}", sinks(count, more));
        let sinks = read(&text).unwrap().sinks;
        let sizes: Vec<u64> = sinks.iter().map(|it| it.dead_letter.max_size.0 / KIB).collect();
        assert!(sizes.iter().all(|size| *size == sizes[0]), "{sizes:?}");
        sizes[0]
    };
    assert_eq!(each("1GiB", 2, ""), 64 * KIB);
    assert_eq!(each("1GiB", 4, ""), 32 * KIB);
    assert_eq!(each("511MiB", 1, ""), 64 * KIB - 128);
    assert_eq!(each("32MiB", 2, ""), 2 * KIB);
    assert_eq!(each("32MiB", 3, ""), 2 * KIB, "8 packets of 256 KiB");
    assert_eq!(each("1GiB", 4, "dead-letter.max-size = '3MiB'"), 3 * KIB);
}

#[test]
fn the_log_has_a_quarter_at_least() {
    // Of 64 MiB: quarantine 4, ledger 0.5, ballast 4, segments 2.25, state 4.
    let log = "log.max-size = '64MiB'\nlog.segment-size = '1MiB'\n";
    let most = 64 * MIB - 16 * MIB - (14 * MIB + 3 * MIB / 4);
    let with = |bytes: u64| {
        read(&format!("{log}{}", sinks(1, &format!("dead-letter.max-size = '{bytes}B'"))))
    };
    assert_eq!(with(most).unwrap().budget().left(), ByteSize::mib(16));
    let refused = with(most + 1).unwrap_err();
    assert!(refused.starts_with("t:2: log.max-size = '64MiB' leaves events 16383KiB"), "{refused}");
    assert!(refused.contains("log.max-quarantine 4MiB"), "{refused}");
}

#[test]
fn the_log_has_four_segments_at_least() {
    // Of 64 MiB: quarantine 4, ledger 0.5, state 4; and 6.25 segments.
    let most = (64 * MIB - 8 * MIB - MIB / 2) * 4 / 25;
    let with = |bytes: u64| {
        let log = "log.max-size = '64MiB'\nlog.ballast = '0B'\n";
        read(&format!("{log}log.segment-size = '{}B'\n", bytes))
    };
    with(most / MIB * MIB).unwrap();
    let refused = with(most + 1).unwrap_err();
    assert!(refused.contains("less than 4 segments of"), "{refused}");
}

#[test]
fn sled_takes_more_for_each_segment() {
    let with = |size: &str| {
        read(&format!("log.max-size = '{size}'\nlog.engine = 'sled'\nlog.segment-size = '1MiB'"))
    };
    assert_eq!(with("64MiB").unwrap().budget().segment, ByteSize::mib(5));
    let refused = with("32MiB").unwrap_err();
    assert!(refused.contains("less than 4 segments of 5MiB"), "{refused}");
}

#[test]
fn too_many_sinks_are_refused_though_no_key_says_anything_of_their_size() {
    read(&sinks(290, "")).unwrap();
    let refused = read(&sinks(400, "")).unwrap_err();
    assert!(refused.contains("sink[400].name = 'c399' leaves events"), "{refused}");
}

#[test]
fn the_quotas_of_lanes_are_three_quarters_of_what_is_left_at_most() {
    // 64 MiB leave 49.25, in whole MiB 49; three quarters are 36.75. `alerts` has 4 of them.
    let lane = |size: &str| {
        let lane = format!("[[lane]]\nname = 'a'\ntopics = ['a']\nmax-size = '{size}'");
        read(&format!("log.max-size = '64MiB'\nlog.segment-size = '1MiB'\n{lane}"))
    };
    let lanes = lane("32MiB").unwrap().lanes;
    assert_eq!(lanes[0].max_size, ByteSize::mib(49 - 32 - 4));
    let refused = lane("33MiB").unwrap_err();
    assert!(refused.contains("expected 36MiB at most"), "{refused}");
}

#[test]
fn retained_messages_leave_the_log_its_room() {
    let with =
        |size: &str| read(&format!("log.max-size = '64MiB'\nlimits.max-retained-size = '{size}'"));
    assert_eq!(with("4MiB").unwrap().limits.max_retained_size, Some(ByteSize::mib(4)));
    let refused = with("4097KiB").unwrap_err();
    assert!(refused.contains("limits.max-retained-size = '4097KiB' may be more"), "{refused}");
    assert!(refused.contains("expected 4MiB at most"), "{refused}");
}
