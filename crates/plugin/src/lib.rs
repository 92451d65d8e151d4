//! SDK for authors of movers.
