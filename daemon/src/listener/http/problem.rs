//! What a client is told when its request is refused (RFC 9457).

use axum::body::Body;
use axum::http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{Response, StatusCode};
use serde::Serialize;
use tidegate_event::cloudevents::parse::ParseError;

use super::respond;
use crate::gate::{Denied, Rejected};
use crate::http::body::BodyError;
use crate::http::media::UnknownEncoding;

/// A refusal.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    title: &'static str,
    #[serde(serialize_with = "number")]
    status: StatusCode,
    detail: String,
    /// Which event of the request, counted from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    /// Which of its attributes.
    #[serde(skip_serializing_if = "Option::is_none")]
    attribute: Option<String>,
    /// Seconds after which it is worth trying again.
    #[serde(skip)]
    retry_after: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        let detail = detail.into();
        Self { title, status, detail, index: None, attribute: None, retry_after: None }
    }

    pub(super) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// The service cannot take it now.
    pub(super) fn later(detail: impl Into<String>, seconds: u32) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, detail);
        Self { retry_after: Some(seconds), ..problem }
    }

    /// It is about one event of several.
    pub(super) fn at(self, index: usize) -> Self {
        Self { index: Some(index), ..self }
    }

    pub(super) fn answer(&self) -> Response<Body> {
        let body = serde_json::to_vec(self).unwrap_or_default();
        let mut response = respond(self.status, "application/problem+json", body);
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            for challenge in ["Basic realm=\"tidegate\", charset=\"UTF-8\"", "Bearer"] {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
        }
        response
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::NotAuthorized => Self::new(StatusCode::FORBIDDEN, denied.to_string()),
            _ => Self::bad(denied.to_string()),
        }
    }
}

impl From<Rejected> for Problem {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::BadLogin | Rejected::BadToken(_) => {
                Self::new(StatusCode::UNAUTHORIZED, "the login is not valid")
            }
            Rejected::LoginNeeded => Self::new(
                StatusCode::UNAUTHORIZED,
                "a login is needed: Authorization with Basic or Bearer",
            ),
            Rejected::Busy => Self::later("too many logins wait to be verified", 1),
            Rejected::TooManyFailures => {
                let why = "too many failed logins from this address";
                let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, why);
                Self { retry_after: Some(60), ..problem }
            }
        }
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        let why = error.to_string();
        match error {
            BodyError::TooLarge(_) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, why),
            BodyError::TooSlow => Self::new(StatusCode::REQUEST_TIMEOUT, why),
            BodyError::NoMemory => Self::later(why, 1),
            BodyError::NotGzip(_) | BodyError::Broken(_) => Self::bad(why),
        }
    }
}

impl From<UnknownEncoding> for Problem {
    fn from(error: UnknownEncoding) -> Self {
        Self::new(UnknownEncoding::STATUS, error.to_string())
    }
}

impl From<ParseError> for Problem {
    fn from(error: ParseError) -> Self {
        let why = Self::bad(error.to_string());
        match error {
            ParseError::Invalid { index, problem } => {
                Self { index: Some(index), attribute: problem.attribute, ..why }
            }
            _ => why,
        }
    }
}
