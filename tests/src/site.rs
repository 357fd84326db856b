//! Where a test happens: a directory of its own, the built binary, and an ordinary user.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

/// `nobody` and `nogroup`, who own nothing else.
const ORDINARY: u32 = 65_534;

/// A directory that is removed in the end, and the binary in it.
///
/// Where the tests run as root, the binary runs as `nobody`, to whom the directory belongs.
#[derive(Debug)]
pub struct Site {
    dir: TempDir,
}

impl Site {
    /// In the system's temporary directory.
    pub fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// In `parent`, which exists: to choose the disk.
    ///
    /// # Panics
    /// When the directory cannot be made, or there is no binary.
    pub fn below(parent: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("tidegate-").tempdir_in(parent);
        let dir = dir.unwrap_or_else(|error| panic!("{}: {error}", parent.display()));
        let site = Self { dir };
        // The user who runs it may not be allowed to look into the build directory.
        let copied = fs::hard_link(built_binary(), site.binary())
            .or_else(|_| fs::copy(built_binary(), site.binary()).map(drop));
        if let Err(error) = copied {
            panic!("cannot place {}: {error}", built_binary().display());
        }
        site.hand_over(site.path());
        site
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The binary under test.
    pub fn binary(&self) -> PathBuf {
        self.path().join("tidegate")
    }

    /// Writes a file that the program under test may read and change.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path().join(name);
        if let Err(error) = fs::write(&path, content) {
            panic!("{}: {error}", path.display());
        }
        self.hand_over(&path);
        path
    }

    /// Hands a directory and all in it over to the program under test.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn give(&self, dir: &Path) {
        self.hand_over(dir);
        let entries =
            fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() { self.give(&path) } else { self.hand_over(&path) }
        }
    }

    fn hand_over(&self, path: &Path) {
        if is_root() {
            let _ = chown(path, Some(ORDINARY), Some(ORDINARY));
        }
    }

    /// The binary with `arguments`, as an ordinary user, in this directory. It dies with the test.
    pub fn tidegate<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.ordinary(self.binary());
        command.args(arguments);
        command
    }

    /// `program`, as an ordinary user, in this directory. It dies with the thread that starts it.
    pub fn ordinary(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if is_root() {
            let user = ORDINARY.to_string();
            command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
        }
        command.arg("--").arg(program).current_dir(self.path());
        // What is set where the tests run is not what is tested.
        for name in ["NOTIFY_SOCKET", "JOURNAL_STREAM", "WATCHDOG_USEC", "WATCHDOG_PID", "RUST_LOG"]
        {
            command.env_remove(name);
        }
        command.env("RUST_BACKTRACE", "1");
        command
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The binary that `TIDEGATE_BIN` names, else the release build.
fn built_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let path = match std::env::var_os("TIDEGATE_BIN") {
            Some(path) => PathBuf::from(path),
            None => target_dir().join("release/tidegate"),
        };
        assert!(
            path.is_file(),
            "no binary at {}: run `cargo build --release` first, or tests/run",
            path.display()
        );
        path
    })
}

/// Cargo's build directory, which is on a real disk.
pub fn target_dir() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let found = program.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file());
    found.map_or_else(|| crate_dir().join("../target"), Path::to_path_buf)
}

/// The folder of the system tests in the source tree.
pub fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A port on loopback that nobody listens on, below the range from which the kernel takes the ports
/// of outgoing connections: it stays free while a program that listened there is away.
///
/// # Panics
/// When a hundred random ports are taken.
pub fn free_port() -> u16 {
    let mut candidates = std::iter::repeat_with(|| fastrand::u16(10_000..32_000)).take(100);
    let free = candidates.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.expect("a free port")
}
