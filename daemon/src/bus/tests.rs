//! The bus on a real log.
