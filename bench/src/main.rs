//! How fast `cas` is, and how much memory it takes: `cargo run --release -p bench -- [--full] [NAME…]`.
//!
//! Promise: arguments in, measures out; everything else is in the library beside it.

#![forbid(unsafe_code)]

fn main() -> anyhow::Result<()> {
    bench::run(std::env::args().skip(1).collect())
}
