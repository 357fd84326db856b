//! The table of what MQTT 3.1.1 and 5.0 ask of a server (`tests/conformance.tsv`) tells the truth: each
//! test that it names exists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names of the tests in a Rust file.
fn tests_of(source: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test) {
            names.extend(rest.split(['(', '<']).next().map(str::to_owned));
            is_test = false;
        }
    }
    names
}

#[test]
fn every_statement_has_a_test_that_exists_or_says_why_not() {
    let table = std::fs::read_to_string(root().join("tests/conformance.tsv")).unwrap();
    let mut files: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut statements = BTreeSet::new();
    let mut wrong = Vec::new();
    let (mut covered, mut open, mut none) = (0, 0, 0);
    for line in table.lines().filter(|line| !line.starts_with('#')).skip(1) {
        let [version, statement, asks, tests] = line.split('\t').collect::<Vec<_>>()[..] else {
            wrong.push(format!("not four columns: {line}"));
            continue;
        };
        if !statements.insert((version, statement)) {
            wrong.push(format!("twice: {version} {statement}"));
        }
        if !matches!(version, "3.1.1" | "5.0") || asks.is_empty() {
            wrong.push(format!("which version, or what it asks: {line}"));
        }
        if tests.starts_with("open: ") {
            open += 1;
            continue;
        }
        if tests.starts_with("none: ") {
            none += 1;
            continue;
        }
        covered += 1;
        if tests.is_empty() {
            wrong.push(format!("no test and no reason: {version} {statement}"));
        }
        for test in tests.split(' ').filter(|test| !test.is_empty()) {
            let Some((file, name)) = test.split_once("::") else {
                wrong.push(format!("not FILE::TEST: {test}"));
                continue;
            };
            let names = files.entry(file).or_insert_with(|| {
                tests_of(&std::fs::read_to_string(root().join(file)).unwrap_or_default())
            });
            if !names.contains(name) {
                wrong.push(format!("no such test: {test} ({version} {statement})"));
            }
        }
    }
    println!("{covered} statements with tests, {open} open, {none} that do not apply");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(statements.len() >= 364, "statements are missing: {}", statements.len());
}

#[test]
fn tests_are_found_by_their_attribute() {
    let source =
        "fn helper() {}\n#[test]\nfn one() {}\n  #[tokio::test]\n  async fn two(a: u8) {}\n";
    assert_eq!(tests_of(source), BTreeSet::from(["one".to_owned(), "two".to_owned()]));
}
