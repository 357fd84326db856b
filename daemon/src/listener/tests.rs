//! Clients against a listener on a real log.

mod bad_input;
mod broker;
mod copies;
mod disk;
mod durability;
mod options;
mod publishing;
mod sessions;
mod subscribing;
mod waiting;
