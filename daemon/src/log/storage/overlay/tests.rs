use super::*;

fn read(file: &dyn File) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    let read = file.read_at(&mut bytes, 0).unwrap();
    assert_eq!(read as u64, file.len().unwrap());
    bytes.truncate(read);
    bytes
}

#[test]
fn what_is_done_shows_here_and_not_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["kept", "cut", "moved", "gone"] {
        fs::write(path(name), b"0123456789").unwrap();
    }
    let overlay = Overlay::default();
    let cut = overlay.open(&path("cut")).unwrap();
    cut.write_at(b"45", 4).unwrap();
    assert_eq!(overlay.changes(), [], "the same bytes are no change");
    cut.write_at(b"xyz", 8).unwrap();
    assert_eq!(read(&*cut), b"01234567xyz");
    cut.truncate(9).unwrap();
    cut.truncate(11).unwrap();
    assert_eq!(read(&*cut), b"01234567x\0\0");
    overlay.create_dir(&path("aside")).unwrap();
    overlay.rename(&path("moved"), &path("aside/moved")).unwrap();
    assert_eq!(read(&*overlay.open(&path("aside/moved")).unwrap()), b"0123456789");
    overlay.unlink(&path("gone")).unwrap();
    overlay.create(&path("new")).unwrap().write_at(b"new", 0).unwrap();
    assert_eq!(read(&*overlay.open(&path("new")).unwrap()), b"new");

    let mut names = overlay.list(dir.path()).unwrap();
    names.sort();
    assert_eq!(names, ["cut", "kept", "new"]);
    assert_eq!(overlay.list(&path("aside")).unwrap(), ["moved"]);
    for gone in ["moved", "gone", "never"] {
        let error = overlay.open(&path(gone)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{gone}");
    }
    assert!(overlay.create(&path("kept")).is_err());

    let mut names = FileSystem.list(dir.path()).unwrap();
    names.sort();
    assert_eq!(names, ["cut", "gone", "kept", "moved"]);
    assert_eq!(fs::read(path("cut")).unwrap(), b"0123456789");
    let changes = overlay.changes();
    assert_eq!(changes[0], Change::Written { path: path("cut"), offset: 8, bytes: 3 });
    assert_eq!(changes[1], Change::Cut { path: path("cut"), from: 11, to: 9 });
    assert_eq!(
        changes.last().unwrap().clone(),
        Change::Written { path: path("new"), offset: 0, bytes: 3 }
    );
    assert_eq!(changes.len(), 7);
}

#[test]
fn of_what_nobody_reads_the_length_alone_is_kept_and_its_pieces_are_one_write() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = Overlay::default().unread(dir.path().join("aside"));
    overlay.create_dir(&dir.path().join("aside")).unwrap();
    for (path, content) in [("aside/copy", [0; 6]), ("file", *b"012345")] {
        let path = dir.path().join(path);
        let file = overlay.create(&path).unwrap();
        file.write_at(b"0123", 0).unwrap();
        file.write_at(b"45", 4).unwrap();
        assert_eq!(read(&*overlay.open(&path).unwrap()), content);
        let written = Change::Written { path, offset: 0, bytes: 6 };
        assert_eq!(overlay.changes().last(), Some(&written));
    }
    assert_eq!(overlay.changes().len(), 4);
}
