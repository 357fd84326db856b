//! What an operator sees: `/health`, `/ready`, `/metrics`, `/status`.
