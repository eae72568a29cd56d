//! The voice: the only file of the program that prints. Results go to stdout, everything else to stderr.
//!
//! Promise: a reader who closes stdout early is no error and loses him nothing but the text; what devices and manifests
//! say cannot move the cursor. Knows nothing of what is said.

use indicatif::{MultiProgress, ProgressDrawTarget};
use serde_json::{Map, Value};
use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// How to speak.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner {
    pub(crate) quiet: bool,
    pub(crate) json: bool,
}

/// What one line on stderr is.
#[derive(Clone, Copy)]
enum Tone {
    Plain,
    Warning,
    Error,
    Hint,
}

/// Speaks in one manner for the whole run.
pub(crate) struct Ui {
    manner: Manner,
    /// stderr is a terminal that likes colours.
    color: bool,
    /// Long commands: JSON lines with `message_type`, warnings among them.
    streaming: AtomicBool,
    /// stdout carries an image: results go to stderr.
    stdout_taken: AtomicBool,
    bars: MultiProgress,
    stdout_error: Mutex<Option<io::Error>>,
}

impl Ui {
    pub(crate) fn new(manner: Manner) -> Ui {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Ui {
            manner,
            color: io::stderr().is_terminal() && !no_color,
            streaming: AtomicBool::new(false),
            stdout_taken: AtomicBool::new(false),
            bars,
            stdout_error: Mutex::new(None),
        }
    }

    pub(crate) fn json(&self) -> bool {
        self.manner.json
    }

    pub(crate) fn quiet(&self) -> bool {
        self.manner.quiet
    }

    /// Whether moving bars are wanted and possible.
    pub(crate) fn draws(&self) -> bool {
        io::stderr().is_terminal() && !self.manner.quiet && !self.manner.json
    }

    /// Where the bars are drawn, so that lines do not run into them.
    pub(crate) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// From here on `--json` means lines, and warnings are lines too.
    pub(crate) fn start_streaming(&self) {
        self.streaming.store(true, Ordering::Relaxed);
    }

    /// From here on stdout belongs to the image that is written there.
    pub(crate) fn give_stdout_away(&self) {
        self.stdout_taken.store(true, Ordering::Relaxed);
    }

    /// A line of the result, for people.
    pub(crate) fn say(&self, line: impl AsRef<str>) {
        if !self.manner.json {
            self.result(&harmless(line.as_ref()));
        }
    }

    /// Lines of the result, for people.
    pub(crate) fn say_all<S: AsRef<str>>(&self, lines: impl IntoIterator<Item = S>) {
        for line in lines {
            self.say(line);
        }
    }

    /// The result of a short command, for programs.
    pub(crate) fn document(&self, value: &Value) {
        if self.manner.json {
            self.result(&value.to_string());
        }
    }

    /// One line of the story of a long command, for programs.
    pub(crate) fn event(&self, message_type: &str, members: Value) {
        if self.manner.json {
            self.result(&event_line(message_type, members));
        }
    }

    /// Text that goes out as it is: completions.
    pub(crate) fn raw(&self, bytes: &[u8]) {
        let written = io::stdout().lock().write_all(bytes);
        self.remember(written);
    }

    /// Something good to know; silent with `--quiet`.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        if !self.manner.quiet && !self.manner.json {
            self.stderr_line(Tone::Plain, text.as_ref());
        }
    }

    /// Something that should not be overlooked.
    pub(crate) fn warn(&self, text: impl AsRef<str>) {
        if self.manner.json && self.streaming.load(Ordering::Relaxed) {
            self.event("warning", serde_json::json!({ "message": text.as_ref() }));
        } else {
            self.stderr_line(Tone::Warning, text.as_ref());
        }
    }

    /// A plain line of progress, asked for or due.
    pub(crate) fn progress(&self, text: impl AsRef<str>) {
        self.stderr_line(Tone::Plain, text.as_ref());
    }

    /// Why it ended, and the next thing to do.
    pub(crate) fn error(&self, code: u8, text: &str, hint: Option<&str>) {
        self.event("error", serde_json::json!({ "code": code, "message": text, "hint": hint }));
        self.stderr_line(Tone::Error, text);
        if let Some(hint) = hint {
            self.stderr_line(Tone::Hint, hint);
        }
    }

    /// Whether somebody can be asked.
    pub(crate) fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks on the terminal; `None` at the end of input.
    pub(crate) fn ask(&self, question: &str) -> io::Result<Option<String>> {
        let mut stderr = io::stderr().lock();
        write!(stderr, "{} ", harmless(question))?;
        stderr.flush()?;
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer)?;
        Ok((read > 0).then(|| answer.trim().to_owned()))
    }

    /// Shows lines on stderr whatever the manner: what a question is about.
    pub(crate) fn show_for_question<S: AsRef<str>>(&self, lines: impl IntoIterator<Item = S>) {
        for line in lines {
            self.stderr_line(Tone::Plain, line.as_ref());
        }
    }

    /// The last word: an error of stdout that is not just a reader who went away.
    pub(crate) fn finish(&self) -> io::Result<()> {
        let flushed = io::stdout().flush();
        self.remember(flushed);
        match self.stdout_error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }

    fn result(&self, line: &str) {
        if self.stdout_taken.load(Ordering::Relaxed) {
            return self.on_stderr(line);
        }
        let written = self.bars.suspend(|| writeln!(io::stdout().lock(), "{line}"));
        self.remember(written);
    }

    fn stderr_line(&self, tone: Tone, text: &str) {
        let (word, color) = match tone {
            Tone::Plain => return self.on_stderr(&harmless(text)),
            Tone::Warning => ("warning:", "33"),
            Tone::Error => ("error:", "1;31"),
            Tone::Hint => ("hint:", "36"),
        };
        let word = if self.color { format!("\x1b[{color}m{word}\x1b[0m") } else { word.to_owned() };
        self.on_stderr(&format!("{word} {}", harmless(text)));
    }

    fn on_stderr(&self, line: &str) {
        // There is nobody left to tell that stderr is gone.
        drop(self.bars.suspend(|| writeln!(io::stderr().lock(), "{line}")));
    }

    /// Keeps the first error; once stdout is gone it stays gone.
    fn remember(&self, written: io::Result<()>) {
        if let Err(error) = written {
            self.stdout_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }
}

/// Labels, serial numbers and comments come from strangers: no control character of theirs reaches the terminal.
fn harmless(text: &str) -> String {
    let replace = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    text.chars().map(replace).collect()
}

fn event_line(message_type: &str, members: Value) -> String {
    let mut event = Map::new();
    event.insert("message_type".to_owned(), Value::from(message_type));
    if let Value::Object(members) = members {
        event.extend(members);
    }
    Value::Object(event).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cannot_move_the_cursor() {
        assert_eq!(harmless("a\x1b[2Jb\rc\nd\u{9b}e"), "a\u{fffd}[2Jb\u{fffd}c\nd\u{fffd}e");
    }

    #[test]
    fn events_are_one_line_with_their_type() {
        let line = event_line("warning", serde_json::json!({ "message": "two\nlines" }));
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((value["message_type"].as_str(), line.lines().count()), (Some("warning"), 1));
    }
}
