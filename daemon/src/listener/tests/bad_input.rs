//! What a client does wrong costs it the connection, and nobody else anything.
