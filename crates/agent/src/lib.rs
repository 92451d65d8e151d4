//! The agent: endpoints, transport, plugin monitor, statistics, mounts, admin API.
