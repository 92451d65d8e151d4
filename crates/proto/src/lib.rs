//! The pdm protocol between agent and movers.
