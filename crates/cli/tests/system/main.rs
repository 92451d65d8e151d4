//! The whole system: agent, guard and movers as real processes over real filesystems on loop devices.

mod access;
mod bad_input;
mod cycle;
mod kill;
mod lemur;
mod movers;
mod races;
mod release;
mod support;
