//! Running a program: by name, without a shell, and remembering the end of what it said.
//!
//! Promise: whatever it prints, no more than [`SAID_BYTES_MAX`] are kept of each stream; nobody is asked anything.
//! Knows nothing of what programs mean.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Program, ToolError};

/// What is kept of each stream: what we look for, and what an error tells, stands at its end.
const SAID_BYTES_MAX: usize = 64 << 10;
/// Lines that an error repeats.
const TOLD_LINES_MAX: usize = 12;
/// Where administrators' programs lie, for those who have no such path.
const ALSO: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Where the program is.
pub(super) fn find(program: Program) -> Result<PathBuf, ToolError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .chain(ALSO.map(PathBuf::from))
        .map(|folder| folder.join(program.name))
        .find(|file| {
            file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
        .ok_or(ToolError::Missing { program: program.name, package: program.package })
}

/// A program and its arguments.
pub(super) struct Call {
    program: Program,
    command: Command,
    fine: &'static [i32],
}

impl Call {
    pub(super) fn new(program: Program) -> Result<Self, ToolError> {
        let mut command = Command::new(find(program)?);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(ALSO.map(PathBuf::from));
        // xfs_admin and others are scripts that call more programs.
        if let Ok(path) = std::env::join_paths(folders) {
            command.env("PATH", path);
        }
        command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Self { program, command, fine: &[0] })
    }

    pub(super) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(super) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub(super) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// The codes that its manual calls success, where that is not only 0.
    pub(super) fn fine(mut self, codes: &'static [i32]) -> Self {
        self.fine = codes;
        self
    }

    pub(super) fn run(mut self) -> Result<Said, ToolError> {
        let program = self.program.name;
        let start = |source| ToolError::Start { program, source };
        let mut child = self.command.spawn().map_err(start)?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (out, err) = std::thread::scope(|scope| {
            let err = scope.spawn(|| err.map(tail).unwrap_or_default());
            let out = out.map(tail).unwrap_or_default();
            (out, err.join().unwrap_or_default())
        });
        let status = child.wait().map_err(start)?;
        let said = Said { program, out, err };
        match status.code() {
            Some(code) if self.fine.contains(&code) => Ok(said),
            _ => Err(ToolError::Failed { program, status, said: said.told() }),
        }
    }
}

/// The end of what is read. A stream that breaks off is one that ends.
fn tail(mut stream: impl Read) -> String {
    let mut kept: VecDeque<u8> = VecDeque::new();
    let mut buf = [0; 4096];
    while let Ok(len @ 1..) = stream.read(&mut buf) {
        kept.extend(buf.iter().take(len));
        let surplus = kept.len().saturating_sub(SAID_BYTES_MAX);
        kept.drain(..surplus);
    }
    String::from_utf8_lossy(&Vec::from(kept)).into_owned()
}

/// What a program said.
pub(super) struct Said {
    program: &'static str,
    pub(super) out: String,
    err: String,
}

impl Said {
    /// The number that follows `mark`.
    pub(super) fn number_after(&self, mark: &'static str) -> Result<u64, ToolError> {
        let digits =
            |text: &str| -> String { text.trim_start().chars().take_while(char::is_ascii_digit).collect() };
        let number = |(_, rest): (&str, &str)| digits(rest).parse().ok();
        self.out.split_once(mark).and_then(number).ok_or_else(|| self.lacks(mark))
    }

    pub(super) fn lacks(&self, expected: &'static str) -> ToolError {
        ToolError::Answer { program: self.program, expected, said: self.told() }
    }

    /// Its last lines, errors last.
    fn told(&self) -> String {
        let lines: Vec<&str> = self
            .out
            .lines()
            .chain(self.err.lines())
            // Progress bars overwrite their line.
            .map(|line| line.rsplit('\r').next().unwrap_or_default().trim())
            .filter(|line| !line.is_empty())
            .collect();
        let first = lines.len().saturating_sub(TOLD_LINES_MAX);
        lines.into_iter().skip(first).collect::<Vec<_>>().join(" / ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SH: Program = Program::new("sh", "dash");

    #[test]
    fn the_end_of_much_is_kept_and_streams_do_not_block_each_other() {
        let script = "seq 100000; seq 100000 >&2; echo 'size: 42 blocks'; exit 3";
        let said = Call::new(SH).unwrap().args(["-c", script]).fine(&[3]).run().unwrap();
        assert_eq!(said.out.len(), SAID_BYTES_MAX);
        assert_eq!(said.number_after("size:").unwrap(), 42);
        assert!(matches!(said.number_after("seize:"), Err(ToolError::Answer { .. })));
    }

    #[test]
    fn failure_tells_the_last_lines_and_a_program_that_is_not_there_its_package() {
        let failed = Call::new(SH).unwrap().args(["-c", "seq 20; echo bad >&2; exit 4"]).run();
        let text = failed.err().unwrap().to_string();
        assert!(text.starts_with("sh: exit status: 4: 10 / 11"), "{text}");
        assert!(text.ends_with("/ 20 / bad"), "{text}");
        let missing = find(Program::new("no-such-program", "nowhere")).unwrap_err();
        assert_eq!(missing.to_string(), "no-such-program: not found: apt-get install nowhere");
    }
}
