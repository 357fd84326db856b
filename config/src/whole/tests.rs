use super::*;
use crate::ByteSize;
use crate::Mqtt;
use crate::lane::{Downsample, Keep, WhenFull};
use crate::reader;
use crate::sink::Http;

const SHIPPED: &str = include_str!("../../tidegate.toml");

/// The keys without a default: the file shows an example.
const EXAMPLES: [&str; 24] = [
    "max-age",
    "daily-write-budget",
    "max-connections-per-address",
    "max-session-backlog",
    "max-retained-size",
    "device-level",
    "tls.client-crl-file",
    "password-file",
    "sensors",
    "issuer",
    "groups",
    "publish",
    "subscribe",
    "deny-publish",
    "deny-subscribe",
    "max-events-per-second",
    "max-bytes-per-second",
    "bearer-token-file",
    "rate.max-events",
    "rate.max-bytes",
    "rate.backlog-events",
    "rate.backlog-bytes",
    "headers.X-Site",
    "clear",
];
/// What is uncommented with the header of a section: what it cannot be without.
const REQUIRED: [(&str, &[&str]); 7] = [
    ("[[lane]]", &["name", "topics", "max-size", "when-full", "downsample.interval"]),
    ("[auth.jwt]", &["algorithm", "key-file", "audience"]),
    ("[[acl]]", &["users"]),
    (
        "[[listener]]",
        &[
            "type",
            "bind",
            "transport",
            "tls.certificate-file",
            "tls.key-file",
            "tls.client-ca-file",
        ],
    ),
    ("[[event-type]]", &["topic", "type"]),
    ("[[sink]]", &["name", "type", "url"]),
    ("[[alert]]", &["name", "topic", "raise"]),
];

fn parsed(text: &str) -> Config {
    Config::from_toml(text, "tidegate.toml").unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

/// The line without its `#`, if it shows a key or a header that is commented out.
fn uncommented(line: &str) -> Option<&str> {
    line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c == '[' || c.is_alphabetic()))
}

fn key(line: &str) -> &str {
    line.split_once(" = ").map_or(line, |(key, _)| key)
}

#[test]
fn the_shipped_file_is_the_default_with_one_listener() {
    let listener = Listener::Mqtt(Mqtt::new(([127, 0, 0, 1], 1883).into()));
    assert_eq!(parsed(SHIPPED), Config { listeners: vec![listener], ..Config::default() });
}

#[test]
fn each_commented_key_shows_its_default() {
    let mut header = "";
    let mut tried = 0;
    for (number, line) in SHIPPED.lines().enumerate() {
        if line.starts_with('[') {
            header = line;
        }
        let Some(shown) = uncommented(line) else { continue };
        if shown.starts_with('[') {
            header = shown;
            continue;
        }
        let required =
            REQUIRED.iter().find(|(of, _)| *of == header).map_or(&[][..], |(_, keys)| keys);
        // The file as shipped, with the section's header and what it requires, and with this line.
        let mut section = "";
        let with = |this: Option<usize>, section: &mut &'static str| -> String {
            let lines = SHIPPED.lines().enumerate().map(|(at, line)| {
                let Some(shown) = uncommented(line) else { return line };
                if shown.starts_with('[') {
                    *section = shown;
                }
                let needed = *section == header && !required.is_empty();
                let taken = shown.starts_with('[') || required.contains(&key(shown));
                if this == Some(at) || needed && taken { shown } else { line }
            });
            lines.collect::<Vec<_>>().join("\n")
        };
        let without_it = parsed(&with(None, &mut section));
        let with_it = parsed(&with(Some(number), &mut section));
        let same = with_it == without_it;
        let example = EXAMPLES.contains(&key(shown));
        assert_eq!(same, !example, "line {}: {line}", number + 1);
        tried += 1;
    }
    assert!(tried > 40, "{tried} keys found");
}

#[test]
fn the_shipped_file_leaves_no_key_out() {
    let text: Vec<&str> = SHIPPED.lines().map(|line| uncommented(line).unwrap_or(line)).collect();
    let text = text.join("\n");
    parsed(&text);
    // A key of a list is shown if one of its sections has it.
    let absent = reader::absent_keys(&text, Config::read);
    let left_out = absent.iter().filter(|key| match key.split_once('[') {
        Some((list, rest)) => {
            let sections = text.matches(&format!("\n[[{list}]]\n")).count();
            let (_, name) = rest.split_once(']').unwrap();
            let in_this = |at| absent.contains(&format!("{list}[{at}]{name}"));
            (1..=sections).all(in_this)
        }
        None => true,
    });
    assert_eq!(left_out.collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn the_examples_are_accepted_without_a_warning() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let config = Config::from_toml(&text, &path.to_string_lossy())
            .unwrap_or_else(|problems| panic!("{problems}"));
        let warnings = config.warnings();
        let expected = usize::from(config.sinks.is_empty());
        assert_eq!(warnings.len(), expected, "{warnings:?}");
        count += 1;
    }
    assert!(count > 3, "only {count} examples found");
}

#[test]
fn a_sink_made_by_code_has_the_defaults_of_one_that_was_read() {
    let config = parsed(
        "listener = [{ type = 'mqtt', bind = '[::1]:0' }]
         sink = [{ name = 'a', type = 'http', url = 'http://a' }]",
    );
    assert_eq!(config.sinks, [Sink::new("a", Bus::Http(Http::new("http://a")))]);
}

#[test]
fn what_a_header_holds_is_not_shown() {
    let mut http = Http::new("https://a");
    http.headers.insert("Authorization".into(), "Bearer verysecret".into());
    let shown = format!("{http:?}");
    assert!(shown.contains("Authorization") && !shown.contains("verysecret"), "{shown}");
}

#[test]
fn a_problem_tells_its_place_and_key_to_a_program() {
    let problems = Config::from_toml(
        "[[listener]]\ntype = 'mqtt'\nbind = '[::1]:0'\n[[sink]]\nname = 'ä'\ntype = 'http'\n\
         url = 'http://a'\nbatch = { max-events = 7, max-age = '1 week' }\n",
        "x.toml",
    )
    .unwrap_err();
    let found: Vec<_> = problems
        .iter()
        .map(|problem| {
            let position = problem.position.unwrap();
            (position.line, position.column, problem.key.as_str())
        })
        .collect();
    assert_eq!(found, [(5, 8, "sink[1].name"), (8, 37, "sink[1].batch.max-age")]);
}

#[test]
fn a_key_is_found_again_in_its_section() {
    let text = "[[listener]]\nbind = '[::1]:0'\n[[listener]]\ntls.key-file = 'b'\n[listener.tls.x]\n\
                [admin]\nbind = 'c'\n";
    let line = |path| crate::locate(text, path).map(|found| found.line);
    assert_eq!(line("listener[1].bind"), Some(2));
    assert_eq!(line("listener[2].tls.key-file"), Some(4));
    assert_eq!(line("admin.bind"), Some(7));
    for nowhere in ["listener[1].tls.key-file", "listener[3].bind", "listener[0].bind", "x", ""] {
        assert_eq!(line(nowhere), None, "{nowhere}");
    }
}

#[test]
fn a_file_beyond_the_bound_or_with_endless_problems_is_refused_in_few_words() {
    let large = "#".repeat(crate::MAX_LEN + 1);
    let refused = Config::from_toml(&large, "x.toml").unwrap_err().to_string();
    assert_eq!(refused, "x.toml: the file has 1048577 bytes, the limit is 1048576");
    let many: String = (0..10_000).map(|n| format!("k{n} = 1\n")).collect();
    let problems = Config::from_toml(&many, "x.toml").unwrap_err();
    assert_eq!((problems.iter().count(), problems.omitted()), (100, 9_901));
}

#[test]
fn deep_nesting_is_refused_and_not_a_stack_overflow() {
    let deep = format!("x = {}", "[".repeat(100_000));
    assert!(Config::from_toml(&deep, "x.toml").is_err());
    let dotted = format!("{}x = 1", "a.".repeat(100_000));
    assert!(Config::from_toml(&dotted, "x.toml").is_err());
}

#[test]
fn what_may_be_a_mistake_is_a_warning() {
    let config = parsed(
        "[[listener]]
         type = 'mqtt'
         bind = '0.0.0.0:1883'
         allow-anonymous = true
         [admin]
         bind = '0.0.0.0:9883'
         [[sink]]
         name = 'a'
         type = 'http'
         url = 'http://a'
         headers.authorization = 'Bearer x'",
    );
    assert_eq!(
        config.warnings(),
        [
            "the listener on 0.0.0.0:1883 lets everybody in who can reach it",
            "[admin] on 0.0.0.0:9883 shows metrics and status to everybody",
            "sink \"a\" sends its login unencrypted: http://",
        ]
    );
    assert_eq!(Config::default().warnings(), ["there is no [[sink]]: events are not forwarded"]);
}

#[test]
fn lanes_are_there_from_the_start_and_share_what_is_left() {
    let standard = Config::default().lanes;
    let names: Vec<_> = standard.iter().map(|lane| lane.name.as_str()).collect();
    assert_eq!(names, ["default", "alerts"]);
    assert_eq!(
        standard[1].topics.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["alerts/#"]
    );
    assert_eq!(standard[1].max_size, ByteSize::mib(64));
    assert_eq!((standard[1].when_full.as_str(), standard[1].priority), ("drop-oldest", 9));
    assert_eq!(standard[0].max_size, ByteSize::mib(791));
    assert_eq!((standard[0].when_full.as_str(), standard[0].priority), ("reject", 0));

    let config = parsed(
        "listener = [{ type = 'mqtt', bind = '[::1]:0' }]
         log.max-size = '256MiB'
         [[lane]]
         name = 'telemetry'
         topics = ['plant/+/telemetry/#', 'trends/#']
         max-size = '64MiB'
         max-age = '7d'
         when-full = 'downsample'
         downsample = { interval = '1m', keep = 'mean', value = '/temperature' }
         [[lane]]
         name = 'alerts'
         priority = 3
         [[lane]]
         name = 'default'
         when-full = 'drop-newest'",
    );
    let [default, alerts, telemetry] = &config.lanes[..] else { panic!("{:?}", config.lanes) };
    assert_eq!((default.max_size, default.when_full.as_str()), (ByteSize::mib(121), "drop-newest"));
    assert_eq!((alerts.max_size, alerts.priority), (ByteSize::mib(16), 3));
    assert_eq!(alerts.when_full, WhenFull::DropOldest);
    let thinned = Downsample {
        interval: crate::Span::seconds(60),
        keep: Keep::Mean,
        value: "/temperature".to_owned(),
    };
    assert_eq!(telemetry.when_full, WhenFull::Downsample(thinned));
    assert_eq!(telemetry.max_age, Some(crate::Span::seconds(7 * 86_400)));
}

#[test]
fn a_lane_that_has_the_alerts_too_is_a_warning() {
    let config = parsed(
        "listener = [{ type = 'mqtt', bind = '[::1]:0' }]
         sink = [{ name = 'a', type = 'http', url = 'http://a' }]
         [[lane]]
         name = 'low'
         topics = ['alerts/low/#', '+/boiler']
         max-size = '16MiB'
         [[lane]]
         name = 'all'
         topics = ['plant/#', '#']
         max-size = '16MiB'",
    );
    assert_eq!(config.warnings(), ["lane \"all\" has the alerts too: # matches alerts/#"]);
}

#[test]
fn values_are_written_with_their_unit_and_read_back() {
    for text in ["0B", "1B", "1023B", "1KiB", "256KiB", "1GiB", "3TiB", "5MB"] {
        assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
    }
    for text in ["0s", "1ms", "1500ms", "10s", "5m", "12h", "7d"] {
        assert_eq!(text.parse::<crate::Span>().unwrap().to_string(), text);
    }
    assert_eq!("90min".parse::<crate::Span>().unwrap().to_string(), "90m");
    assert_eq!("1024 KiB".parse::<ByteSize>().unwrap(), ByteSize::mib(1));
}
