//! What a configuration is refused with: `reject/x.toml` with, to the letter, `reject/x.expected_error`.

use std::fs;
use std::path::Path;

use tidegate_config::Config;

#[test]
fn each_wrong_file_is_refused_in_the_expected_words() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reject");
    let mut wrong = Vec::new();
    let mut pairs = 0;
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let expected = fs::read_to_string(path.with_extension("expected_error")).unwrap();
        let refused = match Config::from_toml(&fs::read_to_string(&path).unwrap(), &name) {
            Ok(_) => "accepted".to_owned(),
            Err(problems) => problems.to_string(),
        };
        if refused.trim_end() != expected.trim_end() {
            wrong.push(format!("--- {name}, expected:\n{expected}+++ refused with:\n{refused}\n"));
        }
        pairs += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(pairs > 20, "only {pairs} fixtures found");
}
