//! Any text, taken as a chunk rule (DESIGN.md §4.3): an error, or a rule whose own text gives it back (I6).
#![no_main]

use chunker::Rule;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(rule) = text.parse::<Rule>() {
        assert_eq!(rule.to_string().parse(), Ok(rule));
    }
});
