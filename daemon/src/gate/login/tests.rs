use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tidegate_config::Auth;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::gate::{Certificate, Secret};

const PATIENCE: Duration = Duration::from_secs(30);

struct Door {
    authenticator: Authenticator,
    config: Auth,
    directory: TempDir,
}

impl Door {
    /// With a password file in which `anna` has the password `hunter2`, cheap to verify.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config =
            Auth { password_file: Some(directory.path().join("passwords")), ..Auth::default() };
        // $6$: SHA-512 of hunter2 and the salt.
        let (salt, digest) = ("MDEyMzQ1Njc4OWFi", sha512(b"hunter20123456789ab"));
        std::fs::write(
            config.password_file.as_ref().unwrap(),
            format!("anna:$6${salt}${digest}\n"),
        )
        .unwrap();
        let logins = Logins::load(&config).unwrap();
        let authenticator = Authenticator::new(logins, &config, PATIENCE, Metrics::default());
        Self { authenticator, config, directory }
    }

    fn file(&self) -> &Path {
        self.config.password_file.as_deref().unwrap()
    }

    async fn log_in(&self, user: &str, password: &str) -> Result<Identity, Rejected> {
        self.authenticator.authenticate(&peer(1, false), &login(user, password)).await
    }

    fn reload(&self) -> usize {
        self.authenticator.replace(Logins::load(&self.config).unwrap())
    }

    fn count(&self, result: &'static str) -> u64 {
        self.authenticator.0.metrics.count(result)
    }
}

fn sha512(bytes: &[u8]) -> String {
    use base64::Engine as _;
    let digest = ring::digest::digest(&ring::digest::SHA512, bytes);
    base64::engine::general_purpose::STANDARD.encode(digest)
}

fn peer(host: u8, anonymous: bool) -> Peer {
    Peer::new(SocketAddr::from(([192, 0, 2, host], 50_000)), anonymous)
}

fn login(user: &str, password: &str) -> Credentials {
    Credentials {
        username: Some(user.to_owned()),
        password: Some(Secret::new(password.as_bytes())),
    }
}

#[tokio::test]
async fn a_password_is_right_or_wrong() {
    let door = Door::new();
    assert_eq!(door.log_in("anna", "hunter2").await.unwrap().user.as_deref(), Some("anna"));
    for (user, password) in [("anna", "hunter3"), ("anna", ""), ("ben", "hunter2"), ("", "hunter2")]
    {
        assert_eq!(door.log_in(user, password).await, Err(Rejected::BadLogin), "{user} {password}");
    }
    let silent = Credentials { username: Some("anna".to_owned()), password: None };
    let result = door.authenticator.authenticate(&peer(2, true), &silent).await;
    assert_eq!(result, Err(Rejected::BadLogin), "a name alone is no proof");
}

#[tokio::test]
async fn who_says_nothing_is_let_in_by_its_certificate_or_its_listener() {
    let door = Door::new();
    let nothing = Credentials::default();
    let result = door.authenticator.authenticate(&peer(1, false), &nothing).await;
    assert_eq!(result, Err(Rejected::LoginNeeded));
    let result = door.authenticator.authenticate(&peer(1, true), &nothing).await;
    assert_eq!(result, Ok(Identity::anonymous()));
    let certificate = Some(Arc::new(Certificate { name: "pump-1".to_owned() }));
    let known = Peer { certificate, ..peer(1, true) };
    let result = door.authenticator.authenticate(&known, &nothing).await;
    assert_eq!(result.unwrap().user.as_deref(), Some("pump-1"));
    let result = door.authenticator.authenticate(&known, &login("anna", "hunter2")).await;
    assert_eq!(result.unwrap().user.as_deref(), Some("anna"), "a login counts more");
    let result = door.authenticator.authenticate(&known, &login("anna", "hunter3")).await;
    assert_eq!(result, Err(Rejected::BadLogin), "and must be right");
}

#[tokio::test]
async fn where_no_login_can_be_verified_none_counts() {
    let open =
        Authenticator::new(Logins::default(), &Auth::default(), PATIENCE, Metrics::default());
    let result = open.authenticate(&peer(1, true), &login("admin", "x")).await;
    assert_eq!(result, Ok(Identity::anonymous()), "nobody takes its word for it");
    let result = open.authenticate(&peer(1, false), &login("admin", "x")).await;
    assert_eq!(result, Err(Rejected::LoginNeeded));
}

#[tokio::test]
async fn a_verified_login_is_remembered_and_a_changed_one_is_not() {
    let door = Door::new();
    for _ in 0..3 {
        door.log_in("anna", "hunter2").await.unwrap();
    }
    assert_eq!((door.count("password"), door.count("remembered")), (1, 2));
    assert_eq!(door.log_in("anna", "hunter3").await, Err(Rejected::BadLogin));
    passwords::set(door.file(), "anna", b"changed").unwrap();
    door.reload();
    assert_eq!(door.log_in("anna", "hunter2").await, Err(Rejected::BadLogin));
    assert!(door.log_in("anna", "changed").await.is_ok());
}

#[tokio::test]
async fn many_failures_cost_a_penalty_and_the_address_only() {
    let door = Door::new();
    for _ in 0..5 {
        assert_eq!(door.log_in("anna", "wrong").await, Err(Rejected::BadLogin));
    }
    assert_eq!(door.log_in("anna", "hunter2").await, Err(Rejected::TooManyFailures));
    let result = door.authenticator.authenticate(&peer(2, false), &login("anna", "hunter2")).await;
    assert!(result.is_ok(), "another address");
    assert_eq!(door.authenticator.0.metrics.penalties.get(), 1);
}

#[tokio::test]
async fn a_flood_at_once_is_verified_no_more_often_than_one_after_the_other() {
    let door = Door::new();
    let attempts: Vec<_> = (0..200).map(|n| format!("wrong-{n}")).collect();
    let attempts = attempts.iter().map(|password| door.log_in("anna", password));
    let results = futures_of(attempts).await;
    let verified = results.iter().filter(|r| **r == Err(Rejected::BadLogin)).count();
    assert_eq!((verified, results.len()), (5, 200));
}

/// Polls all of them until each is ready.
async fn futures_of<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    let mut results = Vec::new();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(result) => {
                results.push(result);
                false
            }
            std::task::Poll::Pending => true,
        });
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    results
}

#[tokio::test]
async fn a_login_that_is_taken_back_ends_its_connections() {
    let door = Door::new();
    passwords::set(door.file(), "ben", b"two").unwrap();
    door.reload();
    let (anna, ben) =
        (door.log_in("anna", "hunter2").await.unwrap(), door.log_in("ben", "two").await.unwrap());
    let tokens: Vec<_> = (0..3).map(|_| CancellationToken::new()).collect();
    let enter = |identity: &Identity, at: usize| door.authenticator.enter(identity, &tokens[at]);
    let here = (enter(&anna, 0), enter(&ben, 1), enter(&Identity::anonymous(), 2));
    let cancelled = || tokens.iter().map(CancellationToken::is_cancelled).collect::<Vec<_>>();
    assert_eq!(door.reload(), 0, "nothing has changed");
    passwords::delete(door.file(), "ben").unwrap();
    assert_eq!(door.reload(), 1);
    assert_eq!(cancelled(), [false, true, false]);
    assert!(door.authenticator.holds(&anna) && !door.authenticator.holds(&ben));
    drop(here);
    passwords::set(door.file(), "anna", b"changed").unwrap();
    assert_eq!(door.reload(), 0, "nobody is left");
    // One that was verified before the change and comes after it.
    let late = CancellationToken::new();
    let _late = door.authenticator.enter(&anna, &late);
    assert!(late.is_cancelled());
    assert!(door.directory.path().exists());
}

#[test]
fn no_secret_shows() {
    let shown = format!("{:?}", login("anna", "hunter2"));
    assert!(shown.contains("anna") && !shown.contains("hunter2"), "{shown}");
    let door = Door::new();
    let hash = sha512(b"hunter20123456789ab");
    let shown = format!("{:?}", door.authenticator);
    assert!(!shown.contains(&hash[..8]), "{shown}");
}
