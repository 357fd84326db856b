//! The keys of a sink with `type = "http"`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::grammar;
use crate::problem::Unfit;
use crate::reader::Section;
use crate::value::{Choice, Span};

/// The keys of `type = "http"`. `Debug` does not show what the headers hold.
#[derive(Clone, PartialEq)]
pub struct Http {
    /// Where to POST, `http://` or `https://`.
    pub url: String,
    /// Default `"batch"`.
    pub mode: Mode,
    /// Default `"none"`.
    pub compression: Compression,
    /// How long one request may take. 100 ms to 10 min; default 30 s.
    pub timeout: Span,
    /// A file whose first line is sent as bearer token. Default: none.
    pub bearer_token_file: Option<PathBuf>,
    /// Further request headers. Default: none.
    pub headers: BTreeMap<String, String>,
}

/// The CloudEvents HTTP binding's content modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// `"batch"`: many events a request, a JSON array.
    #[default]
    Batch,
    /// `"structured"`: one event a request, attributes and data in one JSON object.
    Structured,
    /// `"binary"`: one event a request, attributes as headers and the data as the body.
    Binary,
}

/// How a request's body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// `"none"`: not at all.
    #[default]
    None,
    /// `"gzip"`: `Content-Encoding: gzip`.
    Gzip,
}

impl Choice for Mode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("batch", Self::Batch), ("structured", Self::Structured), ("binary", Self::Binary)];
}

impl Choice for Compression {
    const WORDS: &'static [(&'static str, Self)] = &[("none", Self::None), ("gzip", Self::Gzip)];
}

impl Http {
    /// POSTs to `url`, with everything else at the default.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            mode: Mode::default(),
            compression: Compression::default(),
            timeout: Span::seconds(30),
            bearer_token_file: None,
            headers: BTreeMap::new(),
        }
    }

    pub(super) fn read(section: &Section<'_>) -> Option<Self> {
        let url: Option<String> = section.require("url", "\"https://HOST/PATH\"");
        match url.as_deref() {
            // There may be a login in it, which is not for the screen.
            Some(url) if url.contains('@') => {
                section.check_unseen("url", grammar::check_url(url));
            }
            Some(url) => section.check("url", grammar::check_url(url)),
            None => {}
        }
        let default = Self::new(url.clone().unwrap_or_default());
        let http = Self {
            mode: section.or("mode", default.mode),
            compression: section.or("compression", default.compression),
            timeout: section.bounded(
                "timeout",
                default.timeout,
                Span::milliseconds(100)..=Span::seconds(600),
            ),
            bearer_token_file: section.get("bearer-token-file"),
            headers: section.table("headers", read_headers),
            url: default.url,
        };
        let authorization =
            http.headers.keys().any(|name| name.eq_ignore_ascii_case("authorization"));
        if authorization && http.bearer_token_file.is_some() {
            section.refuse(
                "bearer-token-file",
                Unfit::because("stands beside a header \"Authorization\"")
                    .so("expected one of them"),
            );
        }
        url.map(|_| http)
    }
}

fn read_headers(section: &Section<'_>) -> BTreeMap<String, String> {
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in section.entries::<String>() {
        let twice = headers.keys().any(|other| other.eq_ignore_ascii_case(name));
        let found = match &value {
            _ if twice => Err(Unfit::because("is there twice")),
            Ok(value) => {
                grammar::check_header_name(name).and_then(|()| grammar::check_header_value(value))
            }
            Err(unfit) => Err(unfit.clone()),
        };
        section.check_unseen(name, found);
        headers.insert(name.to_owned(), value.unwrap_or_default());
    }
    headers
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: BTreeMap<&str, &str> =
            self.headers.keys().map(|name| (name.as_str(), "***")).collect();
        f.debug_struct("Http")
            .field("url", &self.url)
            .field("mode", &self.mode)
            .field("compression", &self.compression)
            .field("timeout", &self.timeout)
            .field("bearer_token_file", &self.bearer_token_file)
            .field("headers", &headers)
            .finish()
    }
}
