//! The sifaka command.

fn main() {}
