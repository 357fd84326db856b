//! Out: one forwarder a sink.
