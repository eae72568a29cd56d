//! The one binary of black-box tests: one module a subject, because linking is what makes suites slow.

#![forbid(unsafe_code)]
// The only error handling of a test is to fail where it stands.
#![allow(clippy::unwrap_used)]
// Seeds and figures are printed: cargo shows them when a test fails, or with --nocapture.
#![allow(clippy::print_stdout)]

mod beside;
mod damage;
mod files;
mod full;
mod golden;
mod kills;
mod layouts;
mod mount;
mod nbd;
mod refusals;
mod roundtrip;
mod sources;
mod tidy;
mod used;
mod words;
