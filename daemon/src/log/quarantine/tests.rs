use super::*;
use crate::log::scan::memory::Memory;
use crate::log::storage::sim::Sim;

const LOG: &str = "/log";

fn quarantine(sim: &Sim, blocks: u64) -> Quarantine {
    Quarantine::new(Arc::new(sim.clone()), Path::new(LOG), blocks * BLOCK)
}

/// Bytes at this place of a segment.
fn damaged(offset: u64) -> Extent {
    let bytes = [vec![0; offset as usize], b"damaged".to_vec()].concat();
    let mut extent = Memory { bytes, ..Memory::default() }.extent();
    (extent.offset, extent.len) = (offset, 7);
    extent
}

fn names(sim: &Sim) -> Vec<String> {
    sim.list(&Path::new(LOG).join(DIR)).unwrap_or_default()
}

#[test]
fn the_oldest_make_room_and_are_counted_also_after_a_restart() {
    let sim = Sim::new(1);
    sim.create_dir_all(Path::new(LOG)).unwrap();
    let segment = Path::new("/log/a.seg");
    let quarantine = quarantine(&sim, 3);
    for offset in 0..4 {
        assert!(quarantine.keep(segment, &damaged(offset)));
        assert!(!quarantine.keep(segment, &damaged(offset)), "the same place");
    }
    assert!(!quarantine.keep(segment, &damaged(0)), "it is known, though its copy is gone");
    assert_eq!(names(&sim), ["00000002-a.seg.at-1", "00000003-a.seg.at-2", "00000004-a.seg.at-3"]);
    assert_eq!((quarantine.bytes(), quarantine.dropped()), (3 * BLOCK, 1));
    assert_eq!(sim.content(Path::new("/log/quarantine/00000004-a.seg.at-3")), b"damaged");

    sim.set_content(&Path::new(LOG).join("foreign"), &[7; 5000]);
    let quarantine = super::tests::quarantine(&sim, 3);
    assert!(!quarantine.keep(segment, &damaged(3)));
    let to = quarantine.set_aside("foreign", "not ours").unwrap();
    assert_eq!(to, Path::new("/log/quarantine/00000005-foreign"));
    assert_eq!(names(&sim), ["00000004-a.seg.at-3", "00000005-foreign"]);
    assert_eq!((quarantine.bytes(), quarantine.dropped()), (3 * BLOCK, 2));

    let smaller = super::tests::quarantine(&sim, 2);
    smaller.look();
    assert_eq!((names(&sim), smaller.bytes()), (vec!["00000005-foreign".into()], 2 * BLOCK));
}

#[test]
fn what_is_larger_than_the_bound_stays_where_it_is() {
    let sim = Sim::new(1);
    sim.create_dir_all(Path::new(LOG)).unwrap();
    sim.set_content(&Path::new(LOG).join("large"), &[7; 5000]);
    let quarantine = quarantine(&sim, 1);
    assert!(quarantine.keep(Path::new("/log/a.seg"), &damaged(7)));
    assert_eq!(quarantine.set_aside("large", "not ours"), None);
    assert_eq!(sim.content(&Path::new(LOG).join("large")), [7; 5000]);
    assert_eq!(names(&sim), ["00000001-a.seg.at-7"], "nothing made room in vain");
}

#[test]
fn a_file_with_the_name_of_the_directory_is_the_first_that_lies_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(DIR);
    std::fs::write(&path, "foreign").unwrap();
    std::fs::create_dir(dir.path().join("ledger")).unwrap();
    let storage = Arc::new(crate::log::storage::FileSystem);
    let quarantine = Quarantine::new(storage, dir.path(), 3 * BLOCK);
    assert_eq!(quarantine.set_aside(DIR, "not ours"), None);
    assert_eq!(std::fs::read(path.join("quarantine")).unwrap(), b"foreign");
    let to = quarantine.set_aside("ledger", "not ours").unwrap();
    assert_eq!(to, path.join("00000001-ledger"));
    assert_eq!(quarantine.set_aside(DIR, "not ours"), None, "it is a directory now");
    assert_eq!(quarantine.bytes(), 2 * BLOCK);
}
