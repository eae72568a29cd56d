//! Exit codes: one table, for the program and for `cas help exit-codes`.
//!
//! Promise: a number never changes its meaning. Knows nothing of which error leads to which: that is `errors.rs`.

/// How the program ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    Done,
    Failed,
    Usage,
    Incomplete,
    Damage,
    Refused,
    TooSmall,
    StoreFull,
    NoStore,
    Locked,
    WrongKey,
    Interrupted,
}

/// Every code with what it tells the caller, in the order of `cas help exit-codes`.
const TABLE: [(Exit, u8, &str); 12] = [
    (Exit::Done, 0, "done"),
    (Exit::Failed, 1, "failed"),
    (Exit::Usage, 2, "wrong usage"),
    (Exit::Incomplete, 3, "done but incomplete: unreadable sectors, or some images not removed"),
    (Exit::Damage, 4, "damage or mismatch found"),
    (Exit::Refused, 5, "refused by a safety check"),
    (Exit::TooSmall, 6, "the target is too small"),
    (Exit::StoreFull, 7, "the store is full"),
    (Exit::NoStore, 10, "no such store"),
    (Exit::Locked, 11, "the store is locked by another process"),
    (Exit::WrongKey, 12, "wrong key"),
    (Exit::Interrupted, 130, "interrupted"),
];

impl Exit {
    /// Of two ends of one command, the one that says more is wrong.
    pub(crate) fn worse(self, other: Exit) -> Exit {
        let rank = |exit: Exit| match exit {
            Exit::Done => 0,
            Exit::Incomplete => 1,
            Exit::Damage => 2,
            _ => 3,
        };
        if rank(other) > rank(self) { other } else { self }
    }

    /// The number that the shell sees.
    pub(crate) fn code(self) -> u8 {
        let row = TABLE.iter().find(|(exit, _, _)| *exit == self);
        row.map_or(1, |(_, code, _)| *code)
    }
}

/// The table as text.
pub(crate) fn table() -> String {
    let rows = TABLE.iter().map(|(_, code, meaning)| format!("{code:>5}  {meaning}\n"));
    format!("Exit codes of cas:\n\n{}", rows.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_that_scripts_rely_on() {
        let all = [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::Incomplete,
            Exit::Damage,
            Exit::Refused,
            Exit::TooSmall,
        ];
        assert_eq!(all.map(Exit::code), [0, 1, 2, 3, 4, 5, 6]);
        let rest = [Exit::StoreFull, Exit::NoStore, Exit::Locked, Exit::WrongKey, Exit::Interrupted];
        assert_eq!(rest.map(Exit::code), [7, 10, 11, 12, 130]);
        assert!(table().contains("   11  the store is locked by another process\n"));
    }
}
