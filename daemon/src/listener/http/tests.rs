//! The document against the code; the system tests send requests.

use serde_json::Value;

use super::*;

#[test]
fn the_document_names_what_is_served() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    let topics = format!("{TOPICS}{{topic}}");
    assert_eq!(paths, ["/openapi.json", EVENTS, &topics]);
    for path in [EVENTS, &topics] {
        let operation = &document["paths"][path]["post"];
        let answers: Vec<&String> = operation["responses"].as_object().unwrap().keys().collect();
        let expected = ["202", "400", "401", "403", "408", "413", "415", "429", "431", "503"];
        assert_eq!(answers, expected);
        for content_type in ["application/cloudevents+json", "application/cloudevents-batch+json"] {
            assert!(operation["requestBody"]["content"][content_type].is_object());
        }
    }
    assert_eq!(document["paths"][EVENTS].as_object().unwrap().len(), 1, "POST alone");
}
