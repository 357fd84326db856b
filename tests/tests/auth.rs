//! Who is let in, and what each may do: passwords, tokens, rights; what a flood of logins costs.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tidegate_tests::clients::{Subscriber, VERSIONS, mosquitto_pub, python, succeed};
use tidegate_tests::gateway::Gateway;
use tidegate_tests::packet::{CONNACK, DISCONNECT, PUBACK, SUBACK, Version, login};
use tidegate_tests::packet::{publish, subscribe};
use tidegate_tests::site::Site;
use tidegate_tests::wait::{SOON, eventually, nine_of_ten};
use tidegate_tests::wire::Wire;

const PASSWORD_FILE: &str = "[auth]\npassword-file = \"passwords\"\n";
/// Of Anna, in all tests; nothing else looks like it.
const SECRET: &str = "correct-horse-battery";

/// `tidegate passwd`, with the password on standard input.
fn passwd(site: &Site, user: &str, password: &str) {
    let mut command = site.tidegate(["passwd", "passwords", user]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{password}").unwrap();
    assert!(child.wait().unwrap().success());
}

/// A site with a password file, in which Anna stands.
fn site() -> Site {
    let site = Site::new();
    passwd(&site, "anna", SECRET);
    site
}

/// What mosquitto_pub says with these arguments; nothing, if it gets its message through.
fn refusal(broker: SocketAddr, arguments: &[&str]) -> String {
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", &broker.ip().to_string(), "-p", &broker.port().to_string()]);
    command.args(["-q", "1", "-t", "plant/a", "-m", "1"]).args(arguments);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), said.is_empty(), "{said}");
    said
}

/// A connection that logs in, and the code of the CONNACK.
fn try_login(broker: SocketAddr, version: Version, user: &str, password: &str) -> (Wire, u8) {
    let mut wire = Wire::open(broker);
    wire.send(&login(version, user, Some((user, password))));
    match wire.answer() {
        Some((CONNACK, body)) => (wire, body[1]),
        other => panic!("no CONNACK: {other:02x?}"),
    }
}

fn logged_in(broker: SocketAddr, version: Version, user: &str, password: &str) -> Wire {
    let (wire, code) = try_login(broker, version, user, password);
    assert_eq!(code, 0);
    wire
}

#[test]
fn a_password_lets_in_who_knows_it() {
    let site = site();
    // mosquitto's entries stand beside ours.
    let theirs = site.path().join("theirs");
    succeed(Command::new("mosquitto_passwd").args(["-c", "-b"]).arg(&theirs).args(["ben", "two"]));
    let both = ["passwords", "theirs"].map(|name| std::fs::read_to_string(site.path().join(name)));
    site.write("passwords", &both.map(Result::unwrap).concat());
    let gateway = Gateway::start_at(site, PASSWORD_FILE);
    for version in VERSIONS {
        for (user, password) in [("anna", SECRET), ("ben", "two")] {
            assert_eq!(refusal(gateway.mqtt(), &["-V", version, "-u", user, "-P", password]), "");
        }
        for (user, password) in [("anna", "two"), ("ben", "three"), ("carla", SECRET)] {
            let login = ["-V", version, "-u", user, "-P", password];
            let said = refusal(gateway.mqtt(), &login).to_lowercase();
            assert!(said.contains("bad user"), "{said}");
        }
        let said = refusal(gateway.mqtt(), &["-V", version]).to_lowercase();
        assert!(said.contains("not auth"), "{said}");
    }
    assert_eq!(gateway.metric_where("tidegate_logins_total", "bad-login"), 6.0);
    assert_eq!(gateway.metric_where("tidegate_logins_total", "login-needed"), 2.0);
    assert_eq!(gateway.metric_where("tidegate_logins_total", "\"password\""), 2.0);
    assert_eq!(gateway.metric_where("tidegate_logins_total", "remembered"), 2.0);
}

#[test]
fn nobody_is_anonymous_beyond_loopback() {
    let everywhere = "[[listener]]\ntype = \"mqtt\"\nbind = \"0.0.0.0:0\"\n";
    let refused = Site::new();
    refused.write("tidegate.toml", &tidegate_tests::gateway::config(&refused, everywhere));
    let output = refused.tidegate(["check", "--config", "tidegate.toml"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("can be reached from other machines"), "{said}");

    // The first one's default: with logins, they are needed on loopback too.
    let more = format!(
        "{PASSWORD_FILE}\n[[listener]]\ntype = \"mqtt\"\nbind = \"127.0.0.1:0\"\n\
         allow-anonymous = true\n{everywhere}"
    );
    let mut gateway = Gateway::start_at(site(), &more);
    let lines = gateway.process().lines();
    let addresses = lines.iter().filter_map(|line| line.strip_prefix("listening mqtt "));
    let ports: Vec<u16> =
        addresses.map(|text| text.parse::<SocketAddr>().unwrap().port()).collect();
    let [loopback, open, outside] =
        [0, 1, 2].map(|at| SocketAddr::from(([127, 0, 0, 1], ports[at])));
    assert_eq!(refusal(open, &[]), "");
    assert!(refusal(loopback, &[]).to_lowercase().contains("not auth"));
    assert!(refusal(outside, &[]).to_lowercase().contains("not auth"));
    assert_eq!(refusal(outside, &["-u", "anna", "-P", SECRET]), "");
}

#[test]
fn tokens_are_passwords_until_they_expire() {
    let site = Site::new();
    let secret = "0123456789abcdef0123456789abcdef-secret";
    site.write("jwt.key", secret);
    let mut gateway = Gateway::start_at(
        site,
        "[auth.jwt]\nalgorithm = \"HS256\"\nkey-file = \"jwt.key\"\naudience = \"edge-01\"\n\
         leeway = \"0s\"\n\
         [[acl]]\ngroups = [\"sensors\"]\npublish = [\"plant/%u/#\"]\n",
    );
    let port = gateway.mqtt().port().to_string();
    python("auth_clients.py", &[&port, secret]);
    for expected in ["it has expired", "its token has expired"] {
        gateway.says(&[expected]);
    }
    let log = gateway.process().stderr();
    assert!(!log.contains(secret) && !log.contains("eyJ"), "{log}");
}

const RULES: &str = r#"
[auth.groups]
staff = ["anna"]

[[acl]]
publish = ["plant/%u/#", "seen/%c"]
subscribe = ["plant/%u/#"]

[[acl]]
groups = ["staff"]
subscribe = ["plant/#"]
deny-subscribe = ["plant/+/secret"]
"#;

#[test]
fn rights_decide_about_publish_and_subscribe_in_both_versions() {
    let site = site();
    passwd(&site, "pump", "two");
    let gateway = Gateway::start_at(site, &format!("{PASSWORD_FILE}{RULES}"));
    let broker = gateway.mqtt();
    let anna = Subscriber::start(
        gateway.site(),
        broker,
        &["-u", "anna", "-P", SECRET, "-q", "1", "-t", "plant/#"],
    );

    let mut pump = logged_in(broker, Version::V5, "pump", "two");
    for (id, topic, code) in [
        (1, "plant/pump/t", 0),
        (2, "plant/anna/t", 0x87),
        (3, "seen/pump", 0),
        (4, "seen/other", 0x87),
        (5, "plant/pump/secret", 0),
    ] {
        pump.send(&publish(Version::V5, 1, topic.as_bytes(), id, b"1"));
        let (first, body) = pump.answer().unwrap();
        assert_eq!((first, body.get(2).copied().unwrap_or(0)), (PUBACK, code), "{topic}");
    }
    for (filter, code) in [("plant/pump/+", 1), ("plant/#", 0x87), ("#", 0x87), ("+/pump/#", 0x87)]
    {
        pump.send(&subscribe(Version::V5, 6, filter, 1));
        let (first, body) = pump.answer().unwrap();
        assert_eq!((first, body[3]), (SUBACK, code), "{filter}");
    }
    let mut older = logged_in(broker, Version::V4, "pump", "two");
    for (filter, code) in [("plant/pump/#", 1), ("plant/#", 0x80)] {
        older.send(&subscribe(Version::V4, 6, filter, 1));
        let (first, body) = older.answer().unwrap();
        assert_eq!((first, body[2]), (SUBACK, code), "{filter}");
    }
    // 3.1.1 has no word for it, and an acknowledgement would say that it is stored.
    older.send(&publish(Version::V4, 1, b"plant/anna/t", 7, b"1"));
    assert_eq!(older.answer(), None);
    mosquitto_pub(
        broker,
        &["-u", "pump", "-P", "two", "-q", "1", "-t", "plant/pump/end", "-m", "."],
    );
    anna.receives(&["plant/pump/t 1", "plant/pump/end ."]);
    assert_eq!(gateway.metric_where("tidegate_publishes_denied_total", "not-authorized"), 3.0);
    assert_eq!(gateway.status()["log"]["last-lsn"], 4);
}

#[test]
fn a_will_that_may_not_be_published_is_refused_with_its_client() {
    let gateway = Gateway::start_at(site(), &format!("{PASSWORD_FILE}{RULES}"));
    let with_will = |topic| {
        let login = ["-u", "anna", "-P", SECRET, "-t", "plant/anna/x"];
        refusal(gateway.mqtt(), &[&login[..], &["--will-topic", topic]].concat())
    };
    assert_eq!(with_will("plant/anna/gone"), "");
    assert_ne!(with_will("plant/other/gone"), "");
}

#[test]
fn rights_and_logins_are_read_again_on_sighup() {
    let site = site();
    passwd(&site, "ben", "two");
    let mut gateway = Gateway::start_at(site, PASSWORD_FILE);
    let broker = gateway.mqtt();
    let watch = ["-u", "anna", "-P", SECRET, "-q", "1", "-t", "plant/#"];
    let anna = Subscriber::start(gateway.site(), broker, &watch);
    let send = |topic: &str, user: &str, password: &str| {
        refusal(broker, &["-u", user, "-P", password, "-t", topic])
    };
    assert_eq!(send("plant/a", "anna", SECRET), "");
    anna.receives(&["plant/a 1"]);
    let mut ben = logged_in(broker, Version::V5, "ben", "two");

    // Ben's login is taken back, Anna's rights become fewer, and her connection stays.
    let delete = gateway.site().tidegate(["passwd", "passwords", "ben", "--delete"]).status();
    assert!(delete.unwrap().success());
    let rules = "[[acl]]\nusers = [\"anna\"]\npublish = [\"#\"]\nsubscribe = [\"plant/b\"]\n";
    let config = std::fs::read_to_string(gateway.site().path().join("tidegate.toml")).unwrap();
    gateway.site().write("tidegate.toml", &format!("{config}{rules}"));
    gateway.process().signal(Signal::HUP);
    assert_eq!(ben.answer(), Some((DISCONNECT, vec![0x87])), "ended, and told why");
    assert_eq!(ben.answer(), None);
    assert_ne!(send("plant/b", "ben", "two"), "");
    assert_eq!(send("plant/a", "anna", SECRET), "");
    assert_eq!(send("plant/b", "anna", SECRET), "");
    anna.receives(&["plant/a 1", "plant/b 1"]);

    // What cannot be used changes nothing.
    gateway.site().write("passwords", "anna:plain\n");
    gateway.process().signal(Signal::HUP);
    eventually("a word on it in the log", SOON, || {
        gateway.process().stderr().contains("the entry of user \"anna\" is not a hashed password")
    });
    assert_eq!(send("plant/b", "anna", SECRET), "");
}

#[test]
fn a_flood_of_logins_disturbs_no_neighbour() {
    let mut gateway = Gateway::start_at(site(), PASSWORD_FILE);
    let broker = gateway.mqtt();
    let mut neighbour = logged_in(broker, Version::V5, "anna", SECRET);
    gateway.process().reset_peak_memory();
    let (memory, cpu) = (gateway.process().memory(), gateway.process().cpu());
    let flood: Vec<_> = (0..8)
        .map(|thread| {
            thread::spawn(move || {
                let mut codes = Vec::new();
                for n in 0..50 {
                    let user = format!("user-{thread}-{}", n % 3);
                    codes.push(try_login(broker, Version::V5, &user, "wrong").1);
                }
                codes
            })
        })
        .collect();
    let mut waits = Vec::new();
    for id in 1..=300 {
        let sent = Instant::now();
        neighbour.send(&publish(Version::V5, 1, b"plant/a", id, b"1"));
        assert_eq!(neighbour.answer().unwrap().0, PUBACK);
        waits.push(sent.elapsed());
    }
    let codes: Vec<u8> = flood.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    let verified = codes.iter().filter(|code| **code == 0x86).count();
    assert!(codes.iter().all(|code| matches!(code, 0x86 | 0x9f)), "{codes:02x?}");
    // Fifty from one address, and a few more as its penalties run out.
    assert!((50..=60).contains(&verified), "{verified} of {} were verified", codes.len());
    let grown = gateway.process().peak_memory().saturating_sub(memory);
    let spent = gateway.process().cpu() - cpu;
    assert!(grown < 24 << 20, "{grown} bytes for the flood");
    let waited = nine_of_ten(waits);
    assert!(waited < Duration::from_millis(500), "the neighbour waited {waited:?}");
    println!(
        "{verified} verified, {grown} bytes, {spent:?} of CPU, the neighbour waited {waited:?}"
    );
    assert!(gateway.metric("tidegate_login_penalties_total") >= 1.0);
    let anna = || try_login(broker, Version::V4, "anna", SECRET).1;
    let mut code = anna();
    if code == 0 {
        // The penalty has run out meanwhile: one more failure begins the next, which is twice as long.
        assert_eq!(try_login(broker, Version::V5, "user-0-0", "wrong").1, 0x86);
        code = anna();
    }
    assert_eq!(code, 3, "the address has to wait, whoever it is");
}

#[test]
fn no_secret_is_ever_shown() {
    let site = site();
    let hash = std::fs::read_to_string(site.path().join("passwords")).unwrap();
    let hash = hash.trim().rsplit('$').next().unwrap().to_owned();
    let everything =
        format!("{PASSWORD_FILE}\n[log-output]\nlevel = \"trace\"\nformat = \"text\"\n");
    let mut gateway = Gateway::start_at(site, &everything);
    let broker = gateway.mqtt();
    for version in VERSIONS {
        assert_eq!(refusal(broker, &["-V", version, "-u", "anna", "-P", SECRET]), "");
        assert_ne!(refusal(broker, &["-V", version, "-u", "anna", "-P", "wrong-horse"]), "");
        assert_ne!(refusal(broker, &["-V", version, "-u", "nobody", "-P", "wrong-horse"]), "");
    }
    // A login in a packet that is broken behind it.
    let mut broken = login(Version::V5, "anna", Some(("anna", SECRET)));
    broken[1] += 1;
    broken.push(0xff);
    let mut wire = Wire::open(broker);
    wire.send(&broken);
    wire.answers_to_the_end();
    gateway.process().signal(Signal::HUP);
    gateway.stop();
    let log = gateway.process().stderr();
    assert!(log.contains("wrong user name or password") && log.contains("TRACE"), "{log}");
    for secret in [SECRET, "wrong-horse", &hash] {
        assert!(!log.contains(secret), "{secret} in the log");
        let bytes = format!("{:?}", secret.as_bytes());
        assert!(!log.contains(bytes.trim_matches(['[', ']'])), "{secret} in the log, as bytes");
    }
}
