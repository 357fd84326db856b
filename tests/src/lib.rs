//! What the system tests and the benchmark are made of. They drive the real binary from outside:
//! start, act, disturb, stop, assert.

// The programs under test, each with its own directory:
pub mod process;
pub mod site;
// the gateway, with a config written for the test,
pub mod gateway;
// the upstream that comes with it,
pub mod receiver;
// and one that refuses what it is told to.
pub mod bus;

// Certificates for it, and a client that speaks TLS.
pub mod encrypted;
pub mod pki;
pub mod tls;
// Disks that fail them.
pub mod disk;
// What they take on disk.
pub mod usage;
// What a service manager hears of them.
pub mod manager;

// Whether everything that went in came out there.
pub mod tally;

// What acts on them: publishers that remember what was acknowledged,
pub mod load;
// a client that may say anything, valid or not,
pub mod wire;
// one that goes on with its session,
pub mod numbers;
// MQTT packets as bytes, for all of them,
pub mod packet;
// and other people's clients.
pub mod clients;
pub mod curl;

// How a test asks: over HTTP,
pub mod http;
// and again, until a limit.
pub mod wait;
// What the benchmarks print.
pub mod table;
