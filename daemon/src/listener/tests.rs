//! Clients against a listener on a real log.

mod bad_input;
mod broker;
mod copies;
mod disk;
mod durability;
mod histories;
mod kept;
mod lanes;
mod options;
mod publishing;
mod resuming;
mod sessions;
mod sharing;
mod statements;
mod subscribing;
mod waiting;
