//! tidegate: an edge event gateway. Events come in over MQTT and HTTP, are on disk before they are
//! acknowledged, are watched for alerts on the spot, and go upstream in batches.
//!
//! The modules, in the order in which an event passes them:

// Bytes in: accept, TLS, the MQTT codec, HTTP.
pub mod listener;
// May it enter: topic, limits.
pub mod gate;
// On disk: group commit, recovery, readers.
pub mod log;
// Live fan-out to the MQTT subscribers; retained messages.
pub mod bus;
// Out: read, batch, retry, cursor.
pub mod forward;
// One folder a bus.
pub mod sinks;

// Beside them: what watches the events here,
pub mod services;
// what can be rebuilt from the log,
pub mod state;
// the database that it lies in,
mod database;
// what an operator sees,
pub mod admin;
// what the daemon says,
pub mod logging;
// what every HTTP side shares,
mod http;
// what clients make it hold in memory,
pub mod memory;
// who owns the tasks,
pub mod supervise;
// whether they get on,
pub mod progress;
// what it says to the service manager,
pub mod notify;
// what time it is,
pub mod clock;
// the small upstream that comes with it,
pub mod receiver;
// the wiring of all that,
pub mod gateway;
// and the commands that start it.
pub mod commands;
// What a fuzzer does to all that.
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
