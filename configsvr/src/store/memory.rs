//! The store of tests: in this process's memory.
