//! Helpers of the tests under `suite/`.
//!
//! Promise: none; nothing outside this package uses them.

#![forbid(unsafe_code)]
