//! HSM for stock Linux filesystems: file state, events, release, restore, the guard.
