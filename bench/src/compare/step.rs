//! What every tool is made to do, in this order.
//!
//! Promise: a step knows the image it is about and what it changes. Knows nothing of tools.

/// One timed command of each tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    First,
    Second,
    Third,
    Other,
    Again,
    RestoreFile,
    RestoreDevice,
    Verify,
    Delete,
}

/// Each step with its name on the command line and what tables call it.
const STEPS: [(Step, &str, &str); 9] = [
    (Step::First, "first", "first image, v1"),
    (Step::Second, "second", "a day later, v2"),
    (Step::Third, "third", "a heavy day, v3"),
    (Step::Other, "other", "another machine, b1"),
    (Step::Again, "again", "v3 again, unchanged"),
    (Step::RestoreFile, "restore-file", "restore v3 to a file"),
    (Step::RestoreDevice, "restore-device", "restore v3 to a loop device"),
    (Step::Verify, "verify", "verify all that is stored"),
    (Step::Delete, "delete", "delete v1 and v2, reclaim"),
];

impl Step {
    /// In their order.
    pub(crate) fn all() -> impl Iterator<Item = Step> {
        STEPS.into_iter().map(|(step, ..)| step)
    }

    pub(crate) fn parse(name: &str) -> Option<Step> {
        STEPS.into_iter().find(|(_, known, _)| *known == name).map(|(step, ..)| step)
    }

    /// As on the command line and in the JSON lines.
    pub(crate) fn name(self) -> &'static str {
        self.row().1
    }

    /// As in tables.
    pub(crate) fn title(self) -> &'static str {
        self.row().2
    }

    fn row(self) -> (Step, &'static str, &'static str) {
        *STEPS.iter().find(|(step, ..)| *step == self).expect("every step has its row")
    }

    /// The image that is read, or what a restore must give.
    pub(crate) fn image(self) -> &'static str {
        match self {
            Step::First => "v1",
            Step::Second => "v2",
            Step::Other => "b1",
            _ => "v3",
        }
    }

    /// What it goes by in the store: the unchanged one must not be confused with the third.
    pub(crate) fn image_name(self) -> &'static str {
        if self == Step::Again { "again" } else { self.image() }
    }

    /// The machine that the image is of.
    pub(crate) fn machine(self) -> &'static str {
        if self == Step::Other { "b" } else { "a" }
    }

    /// Reads an image, and later steps need what it stored.
    pub(crate) fn is_capture(self) -> bool {
        self <= Step::Again
    }

    pub(crate) fn is_restore(self) -> bool {
        matches!(self, Step::RestoreFile | Step::RestoreDevice)
    }
}

/// The steps to run when those were asked for: captures before the last of them are needed for what it finds in the store.
pub(crate) fn with_needed(asked: &[Step]) -> Vec<Step> {
    let last = asked.iter().max();
    Step::all().filter(|step| asked.contains(step) || (step.is_capture() && Some(step) < last)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        assert!(Step::all().all(|step| Step::parse(step.name()) == Some(step)));
        assert_eq!(Step::parse("fourth"), None);
    }

    #[test]
    fn what_a_step_needs_is_run_too() {
        use Step::*;
        assert_eq!(with_needed(&[First]), [First]);
        assert_eq!(with_needed(&[Third]), [First, Second, Third]);
        assert_eq!(with_needed(&[Verify, First]), [First, Second, Third, Other, Again, Verify]);
        assert_eq!(with_needed(&Step::all().collect::<Vec<_>>()), Step::all().collect::<Vec<_>>());
    }
}
