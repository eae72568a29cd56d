//! `cargo bench -p bench`: the same as `cargo run --release -p bench`, under the name that people try first.
//!
//! Promise: measures only when cargo says that it is to measure; `cargo test --all-targets` builds it and goes on.

#![forbid(unsafe_code)]

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_child = arguments.first().is_some_and(|first| first == bench::CHILD);
    if is_child || arguments.iter().any(|it| it == "--bench") {
        return bench::run(arguments.into_iter().filter(|it| it != "--bench").collect());
    }
    Ok(())
}
