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
    gateway.stop();
    let path = gateway.site().path().join("trace");
    // The tracer outlives the traced by a moment.
    let trace = wait_for("the end of the trace", SOON, || {
        let trace = fs::read_to_string(&path).ok()?;
        trace.contains("+++ exited with 0 +++").then_some(trace)
    });
    (trace.lines().map(str::to_owned).collect(), answer)
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
    let written = after(came, "write", &|line| is_write(line) && !line.contains("= -1"));
    let begun = after(written, "fdatasync", &|line| line.contains("fdatasync("));
    // Where another thread got between, strace splits the call into two lines.
    let synced = if trace[begun].contains("unfinished") {
        after(begun, "end of the fdatasync", &|line| line.contains("fdatasync resumed"))
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
