//! For tests only: file trees, loop-device filesystems, child processes, faults.
