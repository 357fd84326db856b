//! Disks of their own for a test: small, full, failing, gone. For root on Linux.
//!
//! A test that needs one calls [`own_mounts`] first: it runs once more as a process of its own in a mount
//! namespace of its own, so that whatever it mounts is gone with it, also when it is killed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::clients::succeed;
use crate::site::{Site, target_dir};

/// Says which process is the one with mounts of its own.
const INSIDE: &str = "TIDEGATE_OWN_MOUNTS";
/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: from now on nothing reaches the device.
const SHUT_DOWN: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

/// Whether to go on: in the process that has mounts of its own. The other one has run it by then.
/// `test` is the caller's name.
///
/// Where that cannot be, it says so on standard error, past the test harness, and the test does nothing.
///
/// # Panics
/// When the test failed there.
#[track_caller]
pub fn own_mounts(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let unshared = |program: &OsStr| {
        let mut command = Command::new("setpriv");
        // It dies with the thread that waits for it.
        command.args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--propagation"]);
        command.args(["private", "--"]).arg(program);
        command
    };
    let possible = unshared(OsStr::new("mount")).args(["-t", "tmpfs", "none", "/mnt"]).output();
    let why = match possible {
        Ok(output) if output.status.success() => {
            let program = std::env::current_exe().unwrap_or_default();
            let mut command = unshared(program.as_os_str());
            succeed(command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1"));
            return false;
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    not_run(test, &format!("it needs root and mounts of its own ({why})"));
    false
}

/// Says that a test could not run here, where everybody sees it.
pub fn not_run(test: &str, why: &str) {
    let _ = writeln!(io::stderr(), "NOT RUN: {test}: {why}");
}

/// A mounted file system.
#[derive(Debug)]
pub struct Disk {
    dir: TempDir,
    /// Mounted from this image, if from one.
    image: Option<PathBuf>,
}

impl Disk {
    /// Of `size` bytes, in memory.
    pub fn tmpfs(size: u64) -> Self {
        let disk = Self { dir: tempdir(&std::env::temp_dir()), image: None };
        let options = format!("size={size},mode=755");
        succeed(
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(disk.path()),
        );
        disk
    }

    /// Of `size` bytes in a file in `parent`, with holes where no file's content is; ext4.
    ///
    /// # Panics
    /// When it cannot be made; so for the others.
    pub fn ext4(parent: &Path, size: u64) -> Self {
        Self::ext4_with(parent, size, &["-J", "size=4"])
    }

    /// The same without a journal: it does not turn read-only where it cannot write.
    pub fn ext4_without_journal(parent: &Path, size: u64) -> Self {
        Self::ext4_with(parent, size, &["-O", "^has_journal"])
    }

    fn ext4_with(parent: &Path, size: u64, journal: &[&str]) -> Self {
        let image = image(parent, size);
        // Blocks of 1 KiB, the default on a disk this small, and no journal: Linux 6.18 then loses a synced
        // block when the one behind it cannot be written, whoever writes.
        let mut mkfs = Command::new("mkfs.ext4");
        succeed(mkfs.args(["-q", "-b", "4096", "-m", "0"]).args(journal).arg(&image));
        // With a place in `parent` for all of it, and then without one for what is free.
        let whole = image.with_extension("whole");
        succeed(Command::new("cp").arg("--sparse=never").args([&image, &whole]));
        fs::rename(&whole, &image).unwrap_or_else(|error| panic!("{}: {error}", whole.display()));
        let disk = Self { dir: tempdir(&std::env::temp_dir()), image: Some(image) };
        disk.mount();
        succeed(Command::new("fstrim").arg(disk.path()));
        disk
    }

    /// Of `size` bytes in a file in `parent`; btrfs.
    pub fn btrfs(parent: &Path, size: u64) -> Self {
        let image = image(parent, size);
        succeed(Command::new("mkfs.btrfs").arg("-q").arg(&image));
        let disk = Self { dir: tempdir(&std::env::temp_dir()), image: Some(image) };
        disk.mount();
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A site whose data lies on it.
    ///
    /// # Panics
    /// When there can be none.
    pub fn site(&self) -> Site {
        let site = Site::new();
        self.hold(&site, self.path());
        site
    }

    /// Has the data of `site` lie in `dir`, a directory of this disk.
    ///
    /// # Panics
    /// When it cannot be.
    pub fn hold(&self, site: &Site, dir: &Path) {
        site.give(dir);
        let data = site.path().join("data");
        symlink(dir, &data).unwrap_or_else(|error| panic!("{}: {error}", data.display()));
    }

    /// Mounts its image.
    ///
    /// # Panics
    /// When it cannot be.
    #[track_caller]
    pub fn mount(&self) {
        let image = self.image.as_deref().unwrap_or_else(|| Path::new("none"));
        succeed(Command::new("mount").args(["-o", "loop"]).arg(image).arg(self.path()));
    }

    /// Unmounts it. Nobody may use it any more.
    ///
    /// # Panics
    /// When somebody does.
    #[track_caller]
    pub fn unmount(&self) {
        succeed(Command::new("umount").arg(self.path()));
    }

    /// Checks the file system in its image, and repairs it.
    ///
    /// # Panics
    /// When it cannot be repaired.
    #[track_caller]
    pub fn repair(&self) {
        let image = self.image.as_deref().unwrap_or_else(|| Path::new("none"));
        let status = Command::new("e2fsck").args(["-f", "-p"]).arg(image).output();
        let status = status.map(|output| (output.status.code(), output.stdout));
        // 0: it was clean; 1: it was repaired.
        assert!(matches!(status, Ok((Some(0 | 1), _))), "{status:?}");
    }

    /// As if its cable were pulled: whatever is read or written fails, and what was not synced is lost.
    /// An ext4 is back after [`Disk::unmount`] and [`Disk::mount`].
    #[track_caller]
    pub fn pull(&self) {
        succeed(Command::new("python3").args(["-c", SHUT_DOWN]).arg(self.path()));
    }

    /// An ext4 finds itself damaged: it takes no writes any more.
    #[track_caller]
    pub fn make_read_only(&self) {
        succeed(Command::new("mount").args(["-o", "remount,abort"]).arg(self.path()));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).output();
        if let Some(image) = &self.image {
            let _ = fs::remove_file(image);
        }
    }
}

fn image(parent: &Path, size: u64) -> PathBuf {
    let image = parent.join(format!("image-{:08x}", fastrand::u32(..)));
    let created = File::create(&image).and_then(|file| file.set_len(size));
    created.unwrap_or_else(|error| panic!("{}: {error}", image.display()));
    image
}

fn tempdir(parent: &Path) -> TempDir {
    let dir = tempfile::Builder::new().prefix("tidegate-disk-").tempdir_in(parent);
    dir.unwrap_or_else(|error| panic!("{}: {error}", parent.display()))
}

/// A directory on a real disk for images, which is removed in the end.
pub fn images() -> TempDir {
    tempdir(&target_dir())
}

/// Somebody else's file, which takes all the room that there is.
#[derive(Debug)]
pub struct Hog(PathBuf);

/// Bytes that are free on the file system of `path`.
///
/// # Panics
/// When it does not say.
#[track_caller]
pub fn free(path: &Path) -> u64 {
    let disk = rustix::fs::statvfs(path).unwrap();
    disk.f_bavail * disk.f_frsize
}

impl Hog {
    /// Writes it in `dir` until that takes no more.
    ///
    /// # Panics
    /// When it can be written for another reason than want of room.
    #[track_caller]
    pub fn fill(dir: &Path) -> Self {
        let hog = Self(dir.join("hog"));
        hog.grow();
        hog
    }

    /// Writes it in `dir` until so many bytes are left there.
    ///
    /// # Panics
    /// When it cannot be written.
    #[track_caller]
    pub fn but_for(dir: &Path, left: u64) -> Self {
        let hog = Self(dir.join("hog"));
        let mut chunk = vec![0; free(dir).saturating_sub(left) as usize];
        fastrand::fill(&mut chunk);
        let written = fs::write(&hog.0, chunk);
        written.unwrap_or_else(|error| panic!("{}: {error}", hog.0.display()));
        hog
    }

    /// Takes what room there is now.
    #[track_caller]
    pub fn grow(&self) {
        let mut chunk = vec![0; 64 << 10];
        let file = File::options().create(true).append(true).open(&self.0);
        let mut file = file.unwrap_or_else(|error| panic!("{}: {error}", self.0.display()));
        // Smaller and smaller, so that nothing is left.
        while !chunk.is_empty() {
            fastrand::fill(&mut chunk);
            let written = file.write_all(&chunk).and_then(|()| file.sync_data());
            match written.map_err(|error| error.kind()) {
                Ok(()) => {}
                Err(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                    chunk.truncate(chunk.len() / 2);
                }
                Err(error) => panic!("{}: {error}", self.0.display()),
            }
        }
    }

    /// Removes it.
    ///
    /// # Panics
    /// When it cannot be.
    #[track_caller]
    pub fn remove(self) {
        fs::remove_file(&self.0).unwrap_or_else(|error| panic!("{}: {error}", self.0.display()));
    }
}
