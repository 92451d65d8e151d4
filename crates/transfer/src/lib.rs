//! The data plane: stores, copy engine, checksums, compression.
