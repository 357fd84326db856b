//! A status as a person reads it.

use std::fmt::Write;

use crate::forward::{self, Condition, StreamStatus};
use crate::gateway::{DiskStatus, LaneStatus, LogStatus, Status};

/// A line a part; sinks in the order of the config.
pub(super) fn report(status: &Status) -> String {
    let mut report = format!("{} (tidegate {}): ", status.gateway, status.version);
    report.push_str(if status.is_healthy() { "healthy\n" } else { "NOT HEALTHY\n" });
    for problem in &status.problems {
        line(&mut report, "problem", problem);
    }
    let received = status.received;
    line(
        &mut report,
        "events",
        &format!("{received} received since the start; {}", log(&status.log)),
    );
    line(&mut report, "disk", &disk(&status.log, &status.disk));
    for of_log in &status.log.lanes {
        line(&mut report, "lane", &lane(of_log));
    }
    let clients = status.clients;
    let sessions = count(clients.sessions.unsigned_abs(), "session");
    line(&mut report, "clients", &format!("{} connected, {sessions} kept", clients.connected));
    let alerts = status.alerts;
    line(
        &mut report,
        "alerts",
        &format!("{} open, {} raised since the start", alerts.open, alerts.raised),
    );
    line(&mut report, "losses", &losses(&status.log));
    for of_sink in &status.sinks {
        line(&mut report, "sink", &sink(of_sink));
    }
    if status.sinks.is_empty() {
        line(&mut report, "sink", "none: events are not forwarded");
    }
    report
}

fn line(report: &mut String, name: &str, text: &str) {
    // Writing to a text does not fail.
    let _ = writeln!(report, "  {name:<8} {text}");
}

fn log(log: &LogStatus) -> String {
    let on_disk = (log.last_lsn + 1).saturating_sub(log.first_lsn);
    format!("{on_disk} on disk, the newest is number {}", log.last_lsn)
}

fn disk(log: &LogStatus, disk: &DiskStatus) -> String {
    let percent = log.bytes.saturating_mul(100) / log.max_bytes.max(1);
    let free = disk.free_bytes.map_or("unknown".to_owned(), size);
    format!(
        "log {} of {} ({percent} %); {free} free in {}",
        size(log.bytes),
        size(log.max_bytes),
        disk.directory.display()
    )
}

fn lane(lane: &LaneStatus) -> String {
    let percent = lane.bytes.saturating_mul(100) / lane.max_bytes.max(1);
    let mut text = format!(
        "{}: {}, {} of {} ({percent} %)",
        lane.name,
        count(lane.events, "event"),
        size(lane.bytes),
        size(lane.max_bytes)
    );
    if lane.full {
        text.push_str(match lane.when_full.as_str() {
            "reject" => "; FULL, new events are refused",
            "drop-newest" => "; FULL, new events are dropped",
            _ => "; full, old events make room",
        });
    }
    let counts = [
        (lane.refused, "refused"),
        (lane.dropped, "dropped"),
        (lane.expired, "expired"),
        (lane.thinned, "thinned out"),
    ];
    let counts = counts.iter().filter(|(number, _)| *number > 0);
    let counts: Vec<_> = counts.map(|(number, what)| format!("{number} {what}")).collect();
    if !counts.is_empty() {
        text.push_str(&format!("; {} since the start", counts.join(", ")));
    }
    text
}

fn losses(log: &LogStatus) -> String {
    match log.losses {
        0 => "none".to_owned(),
        entries => format!(
            "{} in the ledger, about {}",
            count(entries as u64, "entry"),
            count(log.lost_events, "event")
        ),
    }
}

fn sink(sink: &forward::Status) -> String {
    let lasts = span(sink.for_seconds);
    let fares = match sink.condition {
        Condition::Ok => format!("ok for {lasts}"),
        Condition::Retrying => format!("CANNOT BE REACHED for {lasts}, tries again"),
        Condition::Throttled => format!("asked for a pause, {lasts} ago"),
        Condition::Poison => format!("refuses some events for {lasts}, they are set aside"),
        Condition::Misconfigured => {
            format!("REFUSES US for {lasts}: look at the config or the other side")
        }
        Condition::DeadLettersFull => format!("STANDS for {lasts}: its dead-letter queue is full"),
    };
    let lag = match sink.lag_events {
        0 => "has every event".to_owned(),
        events => format!("lags by {}, {}", count(events, "event"), span(sink.lag_seconds)),
    } + &streams(sink);
    let error = match &sink.last_error {
        Some(error) if sink.condition != Condition::Ok => format!("; {error}"),
        _ => String::new(),
    };
    format!("{}: {fares}; {lag}{error}", sink.name)
}

/// The parts of the lag, in the order in which they go.
fn streams(sink: &forward::Status) -> String {
    let part = |stream: &StreamStatus| {
        let name = if stream.backlog { "backlog" } else { "live" };
        let (priority, lag) = (stream.priority, count(stream.lag_events, "event"));
        format!("{name} of priority {priority} by {lag}, {}", span(stream.lag_seconds))
    };
    match sink.streams.is_empty() {
        true => String::new(),
        false => format!(" ({})", sink.streams.iter().map(part).collect::<Vec<_>>().join("; ")),
    }
}

fn count(n: u64, one: &str) -> String {
    let (stem, end) = match one.strip_suffix('y') {
        Some(stem) if n != 1 => (stem, "ies"),
        _ if n != 1 => (one, "s"),
        _ => (one, ""),
    };
    format!("{n} {stem}{end}")
}

/// Bytes in the largest unit of which there is one, to a tenth.
fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

/// Seconds in the largest unit of which there are two.
fn span(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3_600), ("min", 60)];
    match units.into_iter().find(|(_, factor)| seconds >= 2 * factor) {
        Some((unit, factor)) => format!("{} {unit}", seconds / factor),
        None => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::{AlertStatus, ClientStatus};

    fn status() -> Status {
        let sink = |name: &str, condition, lag_events| forward::Status {
            name: name.to_owned(),
            address: "http://bus/".to_owned(),
            condition,
            for_seconds: 7_300,
            last_error: Some("http://bus/: refused".to_owned()),
            cursor: 901 - lag_events,
            lag_events,
            lag_seconds: 90,
            streams: Vec::new(),
        };
        let default = LaneStatus {
            name: "default".to_owned(),
            events: 1,
            bytes: 3 << 20,
            max_bytes: 6 << 20,
            when_full: "reject".to_owned(),
            full: false,
            dropped: 0,
            refused: 0,
            expired: 0,
            thinned: 0,
        };
        let telemetry = LaneStatus {
            name: "telemetry".to_owned(),
            events: 799,
            bytes: 5 << 20,
            when_full: "drop-newest".to_owned(),
            full: true,
            dropped: 7,
            expired: 2,
            ..default.clone()
        };
        Status {
            gateway: "edge-01".to_owned(),
            version: "1.2.3".to_owned(),
            problems: Vec::new(),
            received: 20,
            log: LogStatus {
                last_lsn: 900,
                first_lsn: 101,
                bytes: 3 << 29,
                max_bytes: 2 << 30,
                losses: 1,
                lost_events: 12,
                lanes: vec![default, telemetry],
            },
            disk: DiskStatus { directory: "/data".into(), free_bytes: Some(5_000) },
            clients: ClientStatus { connected: 3, sessions: 1 },
            alerts: AlertStatus { open: 1, raised: 4 },
            sinks: vec![sink("cloud", Condition::Ok, 0), sink("backup", Condition::Retrying, 150)],
        }
    }

    #[test]
    fn a_status_is_a_line_a_part() {
        let mut status = status();
        assert_eq!(
            report(&status),
            "edge-01 (tidegate 1.2.3): healthy
  events   20 received since the start; 800 on disk, the newest is number 900
  disk     log 1.5 GiB of 2.0 GiB (75 %); 4.8 KiB free in /data
  lane     default: 1 event, 3.0 MiB of 6.0 MiB (50 %)
  lane     telemetry: 799 events, 5.0 MiB of 6.0 MiB (83 %); FULL, new events are dropped; 7 dropped, 2 expired since the start
  clients  3 connected, 1 session kept
  alerts   1 open, 4 raised since the start
  losses   1 entry in the ledger, about 12 events
  sink     cloud: ok for 2 h; has every event
  sink     backup: CANNOT BE REACHED for 2 h, tries again; lags by 150 events, 90 s; http://bus/: refused
"
        );
        let stream = |backlog, lag_events, lag_seconds| StreamStatus {
            backlog,
            priority: 9,
            lag_events,
            lag_seconds,
        };
        status.sinks[1].streams = vec![stream(false, 1, 2), stream(true, 149, 90)];
        let line = "lags by 150 events, 90 s (live of priority 9 by 1 event, 2 s; \
                    backlog of priority 9 by 149 events, 90 s); http://bus/: refused\n";
        assert!(super::report(&status).ends_with(line), "{}", super::report(&status));
        status.problems = vec!["the log is full".to_owned()];
        status.sinks.clear();
        let report = report(&status);
        assert!(
            report
                .starts_with("edge-01 (tidegate 1.2.3): NOT HEALTHY\n  problem  the log is full\n")
        );
        assert!(report.ends_with("  sink     none: events are not forwarded\n"), "{report}");
    }

    #[test]
    fn sizes_and_spans_are_in_the_unit_that_a_person_would_choose() {
        assert_eq!(
            [0, 1023, 1024, u64::MAX].map(size),
            ["0 B", "1023 B", "1.0 KiB", "16777215.9 TiB"]
        );
        assert_eq!(
            [0, 119, 120, 7_199, 200_000].map(span),
            ["0 s", "119 s", "2 min", "119 min", "2 d"]
        );
    }
}
