//! Every packet, and everything that is none.
