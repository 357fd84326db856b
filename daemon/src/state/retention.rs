//! Frees the log: says up to where nobody needs it any more.
