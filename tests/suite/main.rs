//! The one binary of black-box tests: one module a subject, because linking is what makes suites slow.

#![forbid(unsafe_code)]

mod golden;
mod tidy;
