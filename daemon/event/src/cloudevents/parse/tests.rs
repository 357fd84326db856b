use proptest::prelude::*;

use super::*;

const VALID: &str = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t"}"#;

/// The valid event with `more` members.
fn with(more: &str) -> String {
    VALID.replace('}', &format!(",{more}}}"))
}

fn problem(json: &str) -> (Option<String>, &'static str) {
    match parse_one(json.as_bytes()) {
        Err(ParseError::Invalid { index: 0, problem }) => (problem.attribute, problem.reason),
        other => panic!("{json}: {other:?}"),
    }
}

#[test]
fn an_event_is_borrowed_from_the_body() {
    let json = with(
        r#""subject":"plant/a","time":"2026-11-21T08:30:00Z","data":{"t": [1, "x"]},"logid":"l""#,
    );
    let event = parse_one(json.as_bytes()).unwrap();
    assert_eq!(event.raw, json);
    assert_eq!((&*event.id, &*event.source, &*event.kind), ("1", "/s", "t"));
    assert_eq!(event.subject.as_deref(), Some("plant/a"));
    assert_eq!(event.log_id.as_deref(), Some("l"));
    assert_eq!(event.data, Data::Json(r#"{"t": [1, "x"]}"#));
    assert!(matches!(event.id, Cow::Borrowed(_)));
}

#[test]
fn what_is_not_valid_is_refused_with_its_attribute_and_clause() {
    for (json, attribute) in [
        (VALID.replace("1.0", "0.3"), "specversion"),
        (VALID.replace(r#""specversion":"1.0","#, ""), "specversion"),
        (VALID.replace(r#""id":"1","#, ""), "id"),
        (VALID.replace(r#""id":"1""#, r#""id":"""#), "id"),
        (VALID.replace(r#""id":"1""#, r#""id":null"#), "id"),
        (VALID.replace(r#""id":"1""#, r#""id":1"#), "id"),
        (VALID.replace("/s", ""), "source"),
        (VALID.replace(r#""type":"t""#, r#""type":"""#), "type"),
        (with(r#""id":"2""#), "id"),
        (with(r#""data":1,"data":2"#), "data"),
        (with(r#""data":1,"data_base64":"AA==""#), "data_base64"),
        (with(r#""data_base64":"AA=""#), "data_base64"),
        (with(r#""data_base64":"A*==""#), "data_base64"),
        (with(r#""data_base64":5"#), "data_base64"),
        (with(r#""subject":"""#), "subject"),
        (with(r#""dataschema":"""#), "dataschema"),
        (with(r#""datacontenttype":"""#), "datacontenttype"),
        (with(r#""datacontenttype":{}"#), "datacontenttype"),
        (with(r#""Upper":"x""#), "Upper"),
        (with(r#""with-dash":"x""#), "with-dash"),
        (with(r#""":"x""#), ""),
        (with(r#""nested":{"a":1}"#), "nested"),
        (with(r#""list":[1]"#), "list"),
        (with(r#""fraction":1.5"#), "fraction"),
        (with(r#""big":2147483648"#), "big"),
    ] {
        assert_eq!(problem(&json).0.as_deref(), Some(attribute), "{json}");
    }
    assert_eq!(problem("[]"), (None, "is not a JSON object"));
    let reason = parse_one(with(r#""time":"now""#).as_bytes()).unwrap_err().to_string();
    assert_eq!(reason, "event 0: attribute \"time\" is not a time as in RFC 3339 [3.3.2]");
}

#[test]
fn what_the_specification_allows_is_taken() {
    for more in [
        r#""subject":null,"time":null,"nothing":null"#,
        r#""flag":true,"count":-2147483648,"text":"\u00fc \"quoted\"""#,
        r#""dataschema":"https://example.com/s","datacontenttype":"text/plain; charset=utf-8""#,
        r#""data":null"#,
        r#""data_base64":"AAEC/+8=""#,
        r#""data_base64":"""#,
        r#""anextensionwithaverylongname":"x""#,
    ] {
        let json = with(more);
        assert!(parse_one(json.as_bytes()).is_ok(), "{json}");
    }
    let escaped = VALID.replace("\"id\"", r#""\u0069d""#).replace("\"1\"", r#""\u0031""#);
    assert_eq!(parse_one(escaped.as_bytes()).unwrap().id, "1");
}

#[test]
fn a_batch_is_taken_apart() {
    let two = with(r#""data":[{"]":"}"}]"#);
    let body = format!(" [ {VALID} ,\n{two}\t] \r\n");
    let events = parse_batch(body.as_bytes(), 2).unwrap();
    let raw: Vec<_> = events.iter().map(|event| event.raw).collect();
    assert_eq!(raw, [VALID, &two]);
    assert_eq!(parse_batch(b"[]", 2), Ok(vec![]));
    assert_eq!(parse_batch(b" [ ] ", 0), Ok(vec![]));
}

#[test]
fn a_bad_batch_is_refused_as_a_whole_and_says_where() {
    let third = format!("[{VALID},{VALID},{{}}]");
    assert!(matches!(
        parse_batch(third.as_bytes(), 9),
        Err(ParseError::Invalid { index: 2, problem: Problem { attribute: Some(_), .. } })
    ));
    assert_eq!(parse_batch(VALID.as_bytes(), 9), Err(ParseError::NotABatch));
    assert_eq!(parse_batch(b"", 9), Err(ParseError::NotABatch));
    let many = format!("[{VALID},{VALID}]");
    assert_eq!(parse_batch(many.as_bytes(), 1), Err(ParseError::TooMany(1)));
    for broken in [
        "[".to_owned(),
        "[,]".to_owned(),
        format!("[{VALID}"),
        format!("[{VALID},"),
        format!("[{VALID},]"),
        format!("[{VALID} {VALID}]"),
        format!("[{VALID}]]"),
        format!("[{}]", with(r#""data":{"a":tru}"#)),
        format!("[{}]", with(r#""data":01"#)),
        format!("[{}]", with("\"data\":\"\u{1}\"")),
        format!("[{}]", with(r#""subject":"\ud800""#)),
    ] {
        assert!(parse_batch(broken.as_bytes(), 9).is_err(), "{broken}");
    }
    let mut not_utf8 = VALID.as_bytes().to_vec();
    not_utf8[30] = 0xff;
    assert!(matches!(parse_one(&not_utf8), Err(ParseError::NotJson(_))));
}

#[test]
fn deep_nesting_is_passed_over_without_recursion() {
    let deep = "[".repeat(1 << 20) + &"]".repeat(1 << 20);
    assert!(parse_one(with(&format!("\"data\":{deep}")).as_bytes()).is_ok());
    assert_eq!(problem(&with(&format!("\"x\":{deep}"))).0.as_deref(), Some("x"));
}

#[test]
fn the_place_in_the_gateways_log_is_read_from_the_id_or_beside_it() {
    let place = |source: &str, id: &str, more: &str| {
        let json = with(more)
            .replace("\"/s\"", &format!("\"{source}\""))
            .replace("\"id\":\"1\"", &format!("\"id\":\"{id}\""));
        parse_one(json.as_bytes()).unwrap().place().map(|id| id.lsn)
    };
    let id = "000000000000beef-0-12";
    assert_eq!(place("/gateway/g/device/d", id, r#""x":1"#), Some(12));
    assert_eq!(place("/gateway/g/device/d", "own", r#""x":1"#), None);
    assert_eq!(place("/elsewhere", id, r#""x":1"#), None);
    assert_eq!(place("/elsewhere", "own", &format!("\"logid\":\"{id}\"")), Some(12));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_taken_and_never_a_panic(
        mut body in prop::collection::vec(any::<u8>(), 0..80),
        at in 0usize..200,
    ) {
        let _ = parse_batch(&body, 5);
        let mut batch = format!("[{VALID},{VALID}]").into_bytes();
        let at = at.min(batch.len());
        batch.splice(at..at, body.drain(..3.min(body.len())));
        if let Ok(events) = parse_batch(&batch, 5) {
            prop_assert!(events.len() <= 5);
        }
    }
}
