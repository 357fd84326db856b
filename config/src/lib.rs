//! What an operator may say: the types of `tidegate.toml`, their defaults and their bounds.
//!
//! Strict: an unknown key is an error. Keys are kebab-case; durations and sizes carry their unit
//! (`"30s"`, `"512MiB"`). A section is a struct; its defaults stand in the doc comments, and
//! `tidegate.toml` beside this crate shows every key.

// The sections, in the order in which an event passes what they configure.
mod acl;
mod auth;
mod budget;
mod dedup;
mod gateway;
mod lane;
mod limits;
mod listener;
mod log;
pub mod sink;
// What watches the events, and what an operator sees.
mod admin;
pub mod alert;
// How values are written, and how a file becomes a [`Config`].
pub mod credential;
mod grammar;
mod problem;
mod reader;
mod suggest;
pub mod value;
mod whole;

pub use acl::{Acl, Pattern};
pub use admin::{Admin, LogFormat, LogLevel, LogOutput};
pub use alert::Alert;
pub use auth::{Auth, Failures, Jwt, JwtAlgorithm};
pub use budget::Budget;
pub use dedup::Dedup;
pub use gateway::{EventType, Gateway};
pub use lane::{Downsample, Keep, Lane, WhenFull};
pub use limits::Limits;
pub use listener::{
    ClientCertificates, ClientName, Http as HttpListener, Listener, Mqtt, Tls, TlsVersion,
    Transport,
};
pub use log::{Commit, Log, LogCompression, LogEngine};
pub use problem::{Position, Problem, Problems, Unfit};
pub use reader::{MAX_LEN, locate};
pub use sink::Sink;
pub use value::{ByteSize, Span, TopicFilter};
pub use whole::Config;
