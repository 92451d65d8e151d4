//! The posix mover.
