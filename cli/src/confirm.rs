//! The question before a target is overwritten: type the last four characters of its serial number, or of its name.
//!
//! Promise: without a terminal and without `--yes` nothing is overwritten. Knows nothing of how the target is written.

use crate::args::Context;
use crate::errors::Said;
use crate::exit::Exit;
use anyhow::Result;

/// Characters to type: enough to be read off the right disk, few enough to be typed.
const CHARACTERS: usize = 4;

/// What has to be typed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Question {
    what: &'static str,
    answer: String,
}

impl Question {
    /// About a device by its serial number, where it has one; about anything else by its name.
    pub(crate) fn about(serial: Option<&str>, name: &str) -> Question {
        let (what, text) = match serial {
            Some(serial) if !serial.is_empty() => ("serial number", serial),
            _ => ("name", name),
        };
        let skip = text.chars().count().saturating_sub(CHARACTERS);
        Question { what, answer: text.chars().skip(skip).collect() }
    }

    fn text(&self) -> String {
        let count = self.answer.chars().count();
        format!("To go on, type the last {count} characters of its {}:", self.what)
    }
}

/// Asks; anything but the right answer is a refusal.
pub(crate) fn ask(context: &Context, question: &Question) -> Result<()> {
    if !context.ui.can_ask() {
        return Err(Said::refused("nobody can be asked: standard input or error is not a terminal")
            .hint("--yes goes on unasked; --target-serial makes sure that it is the right disk")
            .into());
    }
    let answer = context.ui.ask(&question.text())?;
    match answer {
        Some(answer) if answer == question.answer => Ok(()),
        Some(answer) => {
            let text = format!(
                "confirmation: expected {:?}, found {answer:?}; nothing was written",
                question.answer
            );
            Err(Said::refused(text).hint("run the command again when you are sure of the target").into())
        }
        None => Err(Said::new(Exit::Refused, "confirmation: no answer; nothing was written").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_the_end_of_the_serial_or_of_the_name() {
        let answer = |serial, name| Question::about(serial, name).answer;
        assert_eq!(answer(Some("WD-WX11A1234567"), "sdb"), "4567");
        assert_eq!(answer(None, "nvme0n1"), "e0n1");
        assert_eq!(answer(Some(""), "sdb"), "sdb");
        assert_eq!(answer(None, "año.img"), ".img");
        let question = Question::about(Some("X-1234"), "sdb");
        assert_eq!(question.text(), "To go on, type the last 4 characters of its serial number:");
        assert!(Question::about(None, "sdb").text().contains("last 3 characters of its name:"));
    }
}
