//! Clients against a listener on a real log.

mod bad_input;
mod broker;
mod publishing;
mod subscribing;
