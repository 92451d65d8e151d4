//! The only unsafe code: Linux system calls behind safe types.
