//! An acknowledgement means disk: seen from the kernel's side.

use std::fs;

use tidegate_tests::gateway::Gateway;
use tidegate_tests::packet::{PUBACK, Version, publish};
use tidegate_tests::wait::{SOON, wait_for};
use tidegate_tests::wire::Wire;

const MARK: &str = "a-mark-that-is-found-in-the-trace";

/// The system calls of a gateway that was sent one event and answered it, in order.
fn trace_of_one_event(qos: u8) -> (Vec<String>, u8) {
    let mut gateway = Gateway::start_traced(
        "",
        "write,writev,pwrite64,pwritev,pwritev2,fdatasync,fsync,sendto,sendmsg,recvfrom,read",
    );
    let mut wire = Wire::client(gateway.mqtt(), Version::V4, "one");
    wire.send(&publish(Version::V4, qos, b"a", 0x0b0b, MARK.as_bytes()));
    let answer = wire.answer().map(|(first, _)| first).unwrap_or_default();
    (trace(&mut gateway), answer)
}

/// Stops the gateway; its system calls, in order.
fn trace(gateway: &mut Gateway) -> Vec<String> {
    gateway.stop();
    let path = gateway.site().path().join("trace");
    // The tracer outlives the traced by a moment.
    let trace = wait_for("the end of the trace", SOON, || {
        let trace = fs::read_to_string(&path).ok()?;
        trace.contains("+++ exited with 0 +++").then_some(trace)
    });
    trace.lines().map(str::to_owned).collect()
}

/// Asserts that the answer that begins with `answer` left after an fdatasync that began after the
/// event was written and ended without an error.
#[track_caller]
fn answered_after_the_sync(trace: &[String], answer: &str) {
    let is_write = |line: &str| {
        ["write(", "writev(", "pwrite64(", "pwritev(", "pwritev2("]
            .iter()
            .any(|call| line.contains(call))
    };
    let after = |from: usize, what: &str, found: &dyn Fn(&str) -> bool| -> usize {
        match trace[from..].iter().position(|line| found(line)) {
            Some(at) => from + at,
            None => panic!("no {what} after line {from} of\n{}", trace.join("\n")),
        }
    };
    let came = after(0, "event", &|line| {
        (line.contains("recvfrom(") || line.contains("read(") || line.contains("resumed"))
            && line.contains("\\v\\v") // the packet id
    });
    // A frame of the log; other threads write and sync other files.
    let written = after(came, "frame", &|line| is_write(line) && line.contains("TGF1"));
    let thread = trace[written].split(' ').next().unwrap_or_default();
    let of_writer = |line: &str| line.starts_with(&format!("{thread} "));
    let begun = after(written, "fdatasync", &|line| of_writer(line) && line.contains("fdatasync("));
    // Where another thread got between, strace splits the call into two lines.
    let synced = if trace[begun].contains("unfinished") {
        after(begun, "end of the fdatasync", &|line| {
            of_writer(line) && line.contains("fdatasync resumed")
        })
    } else {
        begun
    };
    assert!(trace[synced].ends_with("= 0"), "{}", trace[synced]);
    let answered = after(came, "answer", &|line| {
        (line.contains("sendto(") || line.contains("sendmsg(") || is_write(line))
            && line.contains(answer)
    });
    assert!(
        answered > synced,
        "answered in line {answered}, synced in line {synced} of\n{}",
        trace[came..=synced.max(answered)].join("\n")
    );
}

#[test]
fn puback_leaves_after_the_fdatasync_of_its_event() {
    let (trace, answer) = trace_of_one_event(1);
    assert_eq!(answer, PUBACK);
    answered_after_the_sync(&trace, r#""@\2\v\v""#);
}

#[test]
fn pubrec_leaves_after_the_fdatasync_of_its_event() {
    let (trace, answer) = trace_of_one_event(2);
    assert_eq!(answer, 0x50);
    answered_after_the_sync(&trace, r#""P\2\v\v""#);
}

/// Small segments, so that there are many.
const SMALL: &str = r#"
[log]
max-size = "4MiB"
segment-size = "64KiB"
commit.max-bytes = "16KiB"

[limits]
max-packet-size = "16KiB"
max-body-size = "16KiB"
"#;

/// A name that is not durable is no place for an event: neither its own, nor that of its segment.
#[test]
fn a_segment_is_durable_in_its_directory_before_the_first_answer_out_of_it() {
    let calls =
        "trace=rename,renameat,renameat2,pwrite64,fdatasync,fsync,write,writev,sendto,sendmsg";
    // -y: what a descriptor is.
    let mut gateway = Gateway::start_with_strace(SMALL, &["-y", "-e", calls]);
    let mut wire = Wire::client(gateway.mqtt(), Version::V4, "one");
    for _ in 0..40 {
        wire.send(&publish(Version::V4, 1, b"a", 0x0b0b, &[b'x'; 8000]));
        assert_eq!(wire.answer().map(|(first, _)| first), Some(PUBACK));
    }
    let trace = trace(&mut gateway);
    let after = |from: usize, found: &dyn Fn(&str) -> bool| {
        let at = trace[from..].iter().position(|line| found(line));
        from + at.unwrap_or_else(|| panic!("nothing behind line {from} of\n{}", trace.join("\n")))
    };
    // Where another thread got between, strace splits the call into two lines: its end counts.
    let end = |at: usize, call: &str| match trace[at].contains("unfinished") {
        true => after(at, &|line| line.contains(&format!("{call} resumed"))),
        false => at,
    };
    let renamed = |line: &str| line.contains("/log/segment.new\"") && line.contains(".seg\"");
    let mut segments = 0;
    for (at, line) in trace.iter().enumerate().filter(|(_, line)| renamed(line)) {
        let header = trace[..at]
            .iter()
            .rposition(|line| line.contains("fdatasync(") && line.contains("/log/segment.new>"));
        let header = end(header.expect("its header is synced"), "fdatasync");
        let named = end(at, "rename");
        let synced = after(named, &|line| line.contains("fsync(") && line.contains("/data/log>"));
        let synced = end(synced, "fsync");
        assert!(header < at && trace[synced].ends_with("= 0"), "{line}");
        let name = line.rsplit('/').next().and_then(|name| name.split('"').next()).unwrap();
        let first = trace[at..].iter().position(|line| {
            line.contains("pwrite64(") && line.contains(name) && line.contains("TGF1")
        });
        // The last one may be empty.
        let Some(first) = first.map(|first| at + first) else { continue };
        let answered = after(first, &|line| line.contains(r#""@\2\v\v""#));
        assert!(synced < first && first < answered, "{}", trace[at..=answered].join("\n"));
        segments += 1;
    }
    assert!(segments >= 4, "{segments} segments in\n{}", trace.join("\n"));
}
