//! The page: one file with its own style and script, and a policy that lets nothing else run.

use std::sync::LazyLock;

use axum::body::Body;
use axum::http::header::{CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY};
use axum::http::{Response, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::digest;

use super::http::respond;

const PAGE: &str = include_str!("page.html");

/// Names the page's own style and script by their hashes: what an event smuggles in does not run.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash_of("script"),
        hash_of("style"),
    )
});

/// The source expression for what stands in the page's only element `name`.
fn hash_of(name: &str) -> String {
    let inside = PAGE.split_once(&format!("<{name}>")).map_or("", |(_, rest)| rest);
    let inside = inside.split_once(&format!("</{name}>")).map_or("", |(inside, _)| inside);
    let hash = digest::digest(&digest::SHA256, inside.as_bytes());
    format!("'sha256-{}'", BASE64.encode(hash))
}

/// The page.
pub(super) fn answer() -> Response<Body> {
    let mut response = respond(StatusCode::OK, "text/html; charset=utf-8", PAGE.into());
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_style_and_one_script_and_names_nothing_outside() {
        for name in ["style", "script"] {
            assert_eq!(PAGE.matches(&format!("<{name}")).count(), 1);
            assert_eq!(PAGE.matches(&format!("<{name}>")).count(), 1);
        }
        for outside in
            ["http://", "https://", "src=", "@import", "innerHTML", "style=\"", " onclick"]
        {
            assert!(!PAGE.contains(outside), "{outside}");
        }
    }
}
