//! Durable queue of actions: one trait, one suite, several implementations.
