//! A program under test: its output, its end, and what the kernel says it used.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::wait_for;

/// Runs until it ends, is stopped, or is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    stderr: PathBuf,
}

impl Process {
    /// Starts `command`; its standard error goes to a file in `dir`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(name: &str, mut command: Command, dir: &Path) -> Self {
        let stderr = dir.join(format!("{name}.stderr"));
        let file = File::options().create(true).append(true).open(&stderr);
        let file = file.unwrap_or_else(|error| panic!("{}: {error}", stderr.display()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let lines = Arc::<Mutex<Vec<String>>>::default();
        if let Some(stdout) = child.stdout.take() {
            let lines = lines.clone();
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
            });
        }
        Self { name: name.to_owned(), child, lines, stderr }
    }

    /// What it has printed so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it has written to standard error, in this run and earlier ones in the same directory.
    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// The rest of the first line that begins with `prefix`, as soon as there is one.
    ///
    /// # Panics
    /// When it does not come, or the process ends before.
    #[track_caller]
    pub fn line(&mut self, prefix: &str, limit: Duration) -> String {
        wait_for(&format!("`{prefix}…` from {}", self.name), limit, || {
            let ended = self.child.try_wait().ok().flatten();
            let lines = self.lines();
            let found = lines.iter().find_map(|line| line.strip_prefix(prefix));
            if let (None, Some(status)) = (found, ended) {
                panic!("{} ended ({status}) before it printed `{prefix}…`", self.name);
            }
            found.map(|rest| rest.trim().to_owned())
        })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends `signal`.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        if let Err(error) = kill_process(Pid::from_child(&self.child), signal) {
            panic!("cannot signal {}: {error}", self.name);
        }
    }

    /// Its end, by itself or after a signal.
    ///
    /// # Panics
    /// When it still runs after `limit`.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        wait_for(&format!("the end of {}", self.name), limit, || {
            self.child.try_wait().ok().flatten()
        })
    }

    /// Ends it the hard way: nothing it holds in memory survives.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and an end in order.
    ///
    /// # Panics
    /// When it does not end, or with something else than exit code 0.
    #[track_caller]
    pub fn stop(&mut self, limit: Duration) {
        self.signal(Signal::TERM);
        let status = self.wait(limit);
        assert!(status.success(), "{} ended with {status}", self.name);
    }

    /// Resident memory in bytes: now.
    pub fn memory(&self) -> u64 {
        self.kib_of_status("VmRSS:") * 1024
    }

    /// Resident memory in bytes: the most it ever had.
    pub fn peak_memory(&self) -> u64 {
        self.kib_of_status("VmHWM:") * 1024
    }

    /// Makes [`Process::peak_memory`] start over.
    pub fn reset_peak_memory(&self) {
        // 5: reset VmHWM, proc_pid_clear_refs(5).
        let _ = fs::write(format!("/proc/{}/clear_refs", self.pid()), "5");
    }

    fn kib_of_status(&self, key: &str) -> u64 {
        number_after(&self.proc_file("status"), key)
    }

    /// Files and connections that it has open.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// Time on a processor, its own and the kernel's for it.
    pub fn cpu(&self) -> Duration {
        let stat = self.proc_file("stat");
        // The name in parentheses may hold spaces; utime and stime are fields 14 and 15.
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = fields
            .get(11..13)
            .unwrap_or_default()
            .iter()
            .filter_map(|t| t.parse::<u64>().ok())
            .sum();
        Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Bytes it caused to be written to the disk.
    pub fn bytes_written(&self) -> u64 {
        number_after(&self.proc_file("io"), "write_bytes:")
    }

    fn proc_file(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.pid())).unwrap_or_default()
    }
}

fn number_after(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
        if thread::panicking() {
            let stderr = self.stderr();
            // Who came and went is most of it, and no news.
            let news = |line: &&str| !line.contains(" INFO ");
            let worth = if stderr.lines().any(|line| news(&line)) { news } else { |_: &&str| true };
            let tail: Vec<&str> = stderr.lines().rev().filter(worth).take(30).collect();
            eprintln!("--- {} printed {:?}, and on standard error:", self.name, self.lines());
            tail.into_iter().rev().for_each(|line| eprintln!("    {line}"));
        }
    }
}
