//! What the kernel says of this process.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes that it had written to disk, as proc_pid_io(5) counts them: each page that became dirty, so a
/// page that two commits share counts twice, as it is written twice. In a file that was written before it
/// counts far too much: all that the kernel keeps together as one folio.
pub(crate) fn bytes_written() -> u64 {
    number("/proc/self/io", "write_bytes:")
}

/// Bytes written to the disk under `dir`, the file system's journal and other programs' among them; 0
/// where the disk does not count.
pub(crate) fn device_written(dir: &Path) -> u64 {
    let Ok(metadata) = fs::metadata(dir) else { return 0 };
    let device = metadata.dev();
    let device = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{}:{}/stat", device.0, device.1));
    // The seventh field is sectors written, of 512 bytes (Documentation/block/stat.rst).
    let sectors = stat.unwrap_or_default();
    let sectors = sectors.split_whitespace().nth(6).and_then(|field| field.parse::<u64>().ok());
    sectors.unwrap_or_default() * 512
}

/// Memory now, in bytes.
pub(crate) fn memory() -> u64 {
    number("/proc/self/status", "VmRSS:") * 1024
}

/// The most memory so far, in bytes.
pub(crate) fn peak_memory() -> u64 {
    number("/proc/self/status", "VmHWM:") * 1024
}

/// Makes [`peak_memory`] start over.
pub(crate) fn reset_peak_memory() {
    // 5: reset VmHWM, proc_pid_clear_refs(5).
    let _ = fs::write("/proc/self/clear_refs", "5");
}

fn number(file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
}
