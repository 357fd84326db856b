use tidegate_event::cloudevents::parse::parse_one;

use super::*;

fn json(source: &str, id: &str, log_id: Option<&str>) -> String {
    let log_id = log_id.map(|id| format!(",\"logid\":\"{id}\"")).unwrap_or_default();
    format!(
        "{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"{source}\",\"type\":\"t\"{log_id}}}"
    )
}

fn enter(seen: &mut Seen, source: &str, id: &str, log_id: Option<&str>) -> Entered {
    seen.enter(&parse_one(json(source, id, log_id).as_bytes()).unwrap())
}

#[track_caller]
fn new(seen: &mut Seen, source: &str, id: &str) -> Mark {
    match enter(seen, source, id, None) {
        Entered::New(mark) => mark,
        other => panic!("{source} {id}: {other:?}"),
    }
}

fn is_duplicate(seen: &mut Seen, source: &str, id: &str) -> bool {
    matches!(enter(seen, source, id, None), Entered::Duplicate)
}

fn at(lsn: u64) -> String {
    format!("000000000000beef-0-{lsn}")
}

const BOILER: &str = "/gateway/g/device/boiler";
const PUMP: &str = "/gateway/g/device/pump";

#[test]
fn a_gateways_events_are_known_by_their_place() {
    let mut seen = Seen::default();
    for lsn in [1, 2, 5] {
        let _ = new(&mut seen, BOILER, &at(lsn));
    }
    assert!(is_duplicate(&mut seen, BOILER, &at(2)));
    assert!(is_duplicate(&mut seen, PUMP, &at(5)), "the same place is the same event");
    let _ = new(&mut seen, PUMP, &at(4));
    assert_eq!(seen.missing(), 1);
    let gaps: Vec<_> = seen.gaps(10).collect();
    assert_eq!(gaps.len(), 1);
    assert_eq!((gaps[0].gateway, gaps[0].highest, gaps[0].received), (Some("g"), 5, 4));
    assert_eq!(gaps[0].ranges, [3..=3]);
    assert!(seen.window.newer.is_empty(), "no hash is needed for them");
}

#[test]
fn two_gateways_with_the_same_log_are_told_apart() {
    let mut seen = Seen::default();
    let _ = new(&mut seen, BOILER, &at(1));
    let _ = new(&mut seen, "/gateway/clone/device/boiler", &at(1));
    assert!(is_duplicate(&mut seen, BOILER, &at(1)));
    assert_eq!(seen.gaps(1).count(), 2);
}

#[test]
fn other_events_are_known_by_source_and_id() {
    let mut seen = Seen::default();
    let _ = new(&mut seen, "/a", "1");
    let _ = new(&mut seen, "/a", "2");
    let _ = new(&mut seen, "/b", "1");
    let _ = new(&mut seen, "/a1", "1");
    let _ = new(&mut seen, "/a", "11");
    assert!(is_duplicate(&mut seen, "/a", "1"));
    assert_eq!(seen.missing(), 0);
}

#[test]
fn a_publishers_own_id_counts_and_its_place_is_no_gap() {
    let mut seen = Seen::default();
    let _ = new(&mut seen, BOILER, &at(1));
    assert!(matches!(enter(&mut seen, "/own", "x", Some(&at(2))), Entered::New(_)));
    assert!(matches!(enter(&mut seen, "/own", "x", Some(&at(2))), Entered::Duplicate));
    let resent = enter(&mut seen, "/own", "x", Some(&at(3)));
    assert!(matches!(resent, Entered::DuplicateElsewhere(_)), "{resent:?}");
    assert!(matches!(enter(&mut seen, "/own", "x", Some(&at(3))), Entered::Duplicate));
    let _ = new(&mut seen, BOILER, &at(4));
    assert_eq!(seen.missing(), 0);
    assert_eq!(seen.gaps(9).count(), 1, "one log");
}

#[test]
fn a_log_first_seen_beside_a_publishers_id_gets_its_gateway_later() {
    let mut seen = Seen::default();
    assert!(matches!(enter(&mut seen, "/own", "x", Some(&at(1))), Entered::New(_)));
    assert_eq!(seen.gaps(9).next().unwrap().gateway, None);
    let _ = new(&mut seen, BOILER, &at(2));
    assert_eq!(seen.gaps(9).next().unwrap().gateway, Some("g"));
    assert_eq!((seen.missing(), seen.gaps(9).count()), (0, 1));
}

#[test]
fn what_could_not_be_stored_is_forgotten() {
    let mut seen = Seen::default();
    let _ = new(&mut seen, BOILER, &at(1));
    let mark = new(&mut seen, BOILER, &at(2));
    seen.forget(&mark);
    let mark = new(&mut seen, "/own", "x");
    seen.forget(&mark);
    let _ = new(&mut seen, BOILER, &at(2));
    let _ = new(&mut seen, "/own", "x");
    assert_eq!(seen.ranges, 1);
}

#[test]
fn it_is_restored_as_it_was() {
    let mut seen = Seen::default();
    for lsn in [1, 2, 9] {
        let _ = new(&mut seen, BOILER, &at(lsn));
    }
    let _ = new(&mut seen, "/own", "x");
    let window = seen.window();
    let mut restored = Seen::restore(seen.logs(), [&window[0], &window[1]]);
    assert_eq!(restored.missing(), 6);
    assert!(is_duplicate(&mut restored, BOILER, &at(9)));
    assert!(is_duplicate(&mut restored, "/own", "x"));
    assert_eq!(restored.logs(), seen.logs());
}

#[test]
fn the_window_keeps_the_last_hashes_and_is_bounded() {
    let mut window = Window::default();
    let count = 2 * GENERATION as u128 + 10;
    (0..count).for_each(|hash| window.insert(hash << 64 | hash));
    let kept = |hash: u128| window.contains(hash << 64 | hash);
    assert!(kept(count - 1) && kept(count - GENERATION as u128));
    assert!(!kept(0));
    assert!(window.older.len() + window.newer.len() <= 2 * GENERATION);
    assert!(window.newer.capacity() <= GENERATION, "the table never grew");
}

#[test]
fn logs_and_ranges_beyond_the_bound_are_found_in_the_window() {
    let mut seen = Seen::default();
    for log in 0..MAX_LOGS + 10 {
        let _ = new(&mut seen, BOILER, &format!("{log:016x}-0-1"));
    }
    assert_eq!(seen.logs.len(), MAX_LOGS);
    let beyond = format!("{:016x}-0-1", MAX_LOGS + 1);
    assert!(is_duplicate(&mut seen, BOILER, &beyond));

    let mut seen = Seen::default();
    for range in 0..MAX_RANGES as u64 {
        let _ = new(&mut seen, BOILER, &at(2 * range + 2));
    }
    let one_more = at(2 * MAX_RANGES as u64 + 10);
    let _ = new(&mut seen, BOILER, &one_more);
    assert!(is_duplicate(&mut seen, BOILER, &one_more));
    assert_eq!(seen.ranges, MAX_RANGES);
    let _ = new(&mut seen, BOILER, &at(3));
    assert!(is_duplicate(&mut seen, BOILER, &at(3)));
    assert_eq!(seen.ranges, MAX_RANGES - 1);
}
