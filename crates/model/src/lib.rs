//! Words and rules of Sifaka: values and pure state machines, without I/O.
