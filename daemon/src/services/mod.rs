//! Runs the edge services: each reads the log from its own cursor and publishes through the gate.
