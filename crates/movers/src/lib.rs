//! The movers: posix and noop.
