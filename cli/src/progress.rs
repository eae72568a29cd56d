//! How far a long operation is: two moving lines on a terminal, else a plain line every ten seconds; JSON lines with
//! `--json`; a line at once on SIGUSR1.
//!
//! Promise: the work only adds to counters; whatever is shown, is shown by one thread of its own.
//! Knows nothing of how the work is done.

use crate::interrupt::Signals;
use crate::ui::Ui;
use crate::units::{show_bytes, show_duration, show_rate};
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often bars move and SIGUSR1 is looked at: quick to the eye, nothing to the processor.
const TICK: Duration = Duration::from_millis(100);
/// How often a plain line is due (CLI conventions).
const PLAIN_EVERY: Duration = Duration::from_secs(10);
/// How often programs are told.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// The rate for «time left» is an average over about this long.
const RATE_WINDOW: Duration = Duration::from_secs(15);
/// Notes of one run that are printed; a dying disk has thousands of bad ranges, and all are in the report.
const NOTES_MAX: u64 = 20;

/// What is worth telling besides the bytes done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Capture,
    Restore,
    Check,
}

/// Counters at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
struct Counts {
    total: Option<u64>,
    done: u64,
    zeros: u64,
    bad: u64,
    unchanged: u64,
    written: u64,
    new: u64,
    duplicate: u64,
}

/// Bytes of a total that is not known.
const UNKNOWN: u64 = u64::MAX;

#[derive(Default)]
struct Shared {
    total: AtomicU64,
    done: AtomicU64,
    zeros: AtomicU64,
    bad: AtomicU64,
    unchanged: AtomicU64,
    written: AtomicU64,
    new: AtomicU64,
    duplicate: AtomicU64,
    notes: AtomicU64,
    told_of_stop: AtomicBool,
    finished: Mutex<bool>,
    wake: Condvar,
}

/// Watches one operation; ends when dropped.
pub(crate) struct Meter {
    shared: Arc<Shared>,
    ui: Arc<Ui>,
    signals: Signals,
    thread: Option<JoinHandle<()>>,
}

impl Meter {
    /// Starts to show. `title` is the verb and what it is done to.
    pub(crate) fn start(ui: &Arc<Ui>, signals: &Signals, work: Work, title: &str) -> Meter {
        let shared = Arc::new(Shared { total: AtomicU64::new(UNKNOWN), ..Shared::default() });
        let shower = Shower {
            shared: Arc::clone(&shared),
            ui: Arc::clone(ui),
            signals: signals.clone(),
            work,
            title: title.to_owned(),
            pace: Pace::new(Instant::now()),
        };
        // Without the thread nothing is shown, and the work goes on.
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(move || shower.run()).ok();
        Meter { shared, ui: Arc::clone(ui), signals: signals.clone(), thread }
    }

    fn note_line(&self, text: &str, serious: bool) {
        match self.shared.notes.fetch_add(1, Relaxed) {
            0..NOTES_MAX if serious => self.ui.warn(text),
            0..NOTES_MAX => self.ui.note(text),
            NOTES_MAX => self.ui.warn("there is more of this kind; the report has all of it"),
            _ => {}
        }
    }

    fn stopped(&self) -> bool {
        let stopped = self.signals.stopped();
        if stopped && !self.shared.told_of_stop.swap(true, Relaxed) {
            self.ui.note("interrupted: ending cleanly; once more ends at once");
        }
        stopped
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        *lock(&self.shared.finished) = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the shower has been printed; the work's own result counts.
            drop(thread.join());
        }
    }
}

impl image::Progress for Meter {
    fn total(&self, bytes: Option<u64>) {
        let s = &self.shared;
        for counter in [&s.done, &s.zeros, &s.bad, &s.unchanged, &s.written, &s.new, &s.duplicate] {
            counter.store(0, Relaxed);
        }
        s.total.store(bytes.unwrap_or(UNKNOWN), Relaxed);
    }

    fn add(&self, counter: image::Counter, bytes: u64) {
        let counter = match counter {
            image::Counter::Done => &self.shared.done,
            image::Counter::New => &self.shared.new,
            image::Counter::Known => &self.shared.duplicate,
            image::Counter::Zeros => &self.shared.zeros,
            image::Counter::Bad => &self.shared.bad,
            image::Counter::Unchanged => &self.shared.unchanged,
            image::Counter::Written => &self.shared.written,
            _ => return,
        };
        counter.fetch_add(bytes, Relaxed);
    }

    fn note(&self, note: image::Note<'_>) {
        match note {
            // The first is of interest after a power cut only; the second is in the report, with its reason.
            image::Note::HeadZeroed | image::Note::Damaged(_) => {}
            image::Note::Verifying | image::Note::Store(_) => self.note_line(&note.to_string(), false),
            _ => self.note_line(&note.to_string(), true),
        }
    }

    fn cancelled(&self) -> bool {
        self.stopped()
    }
}

/// The thread that shows.
struct Shower {
    shared: Arc<Shared>,
    ui: Arc<Ui>,
    signals: Signals,
    work: Work,
    title: String,
    pace: Pace,
}

impl Shower {
    fn run(mut self) {
        let bars = self.ui.draws().then(|| self.bars());
        let (mut plain_due, mut status_due) = (Instant::now() + PLAIN_EVERY, Instant::now() + STATUS_EVERY);
        while !self.wait() {
            let (now, counts) = (Instant::now(), self.counts());
            self.pace.see(now, counts.done);
            if let Some(bars) = &bars {
                self.draw(bars, &counts);
            }
            let asked = self.signals.take_report();
            let due = now >= plain_due && bars.is_none() && !self.ui.quiet() && !self.ui.json();
            if due {
                plain_due = now + PLAIN_EVERY;
            }
            if due || (asked && !self.ui.json()) {
                self.ui.progress(self.line(&counts));
            }
            if self.ui.json() && (asked || now >= status_due) {
                status_due = now + STATUS_EVERY;
                self.ui.event("status", self.status(&counts));
            }
        }
        for bar in bars.into_iter().flatten() {
            bar.finish_and_clear();
        }
    }

    /// One tick; true when the work is over.
    fn wait(&self) -> bool {
        let finished = lock(&self.shared.finished);
        let (finished, _) = self
            .shared
            .wake
            .wait_timeout_while(finished, TICK, |finished| !*finished)
            .unwrap_or_else(PoisonError::into_inner);
        *finished
    }

    fn counts(&self) -> Counts {
        let s = &self.shared;
        let total = s.total.load(Relaxed);
        Counts {
            total: (total != UNKNOWN).then_some(total),
            done: s.done.load(Relaxed),
            zeros: s.zeros.load(Relaxed),
            bad: s.bad.load(Relaxed),
            unchanged: s.unchanged.load(Relaxed),
            written: s.written.load(Relaxed),
            new: s.new.load(Relaxed),
            duplicate: s.duplicate.load(Relaxed),
        }
    }

    fn bars(&self) -> [ProgressBar; 2] {
        let style = |template: &str| {
            // The templates are constants of this file, and `draws_two_lines` parses them.
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
        };
        let bar = |template| self.ui.bars().add(ProgressBar::new(1).with_style(style(template)));
        [bar(FIRST_LINE), bar(SECOND_LINE)]
    }

    fn draw(&self, bars: &[ProgressBar; 2], counts: &Counts) {
        let [first, second] = bars;
        first.set_length(counts.total.unwrap_or(0).max(1));
        first.set_position(counts.done.min(counts.total.unwrap_or(0)));
        // One column is left free: a full row is wrapped by some terminals, and clearing would miss a line.
        let columns = columns().saturating_sub(1);
        first.set_message(fit(&first_text(counts, &self.pace), columns.saturating_sub(BAR_COLUMNS)));
        let second_line = format!("{}: {}", self.title, second_text(self.work, counts));
        second.set_message(fit(second_line.trim_end_matches([':', ' ']), columns));
    }

    fn line(&self, counts: &Counts) -> String {
        let (first, second) = (first_text(counts, &self.pace), second_text(self.work, counts));
        let comma = if second.is_empty() { "" } else { "; " };
        format!("{}: {first}{comma}{second}", self.title)
    }

    fn status(&self, counts: &Counts) -> serde_json::Value {
        let mut status = serde_json::json!({
            "bytes_done": counts.done,
            "bytes_total": counts.total,
            "seconds_elapsed": self.pace.elapsed().as_secs_f64(),
            "seconds_left": self.pace.left(counts).map(|left| left.as_secs()),
        });
        let members: &[(&str, u64)] = match self.work {
            Work::Check => &[],
            Work::Capture => &[
                ("new_bytes", counts.new),
                ("deduplicated_bytes", counts.duplicate),
                ("zero_bytes", counts.zeros),
                ("bad_bytes", counts.bad),
            ],
            Work::Restore => &[
                ("written_bytes", counts.written),
                ("unchanged_bytes", counts.unchanged),
                ("zero_bytes", counts.zeros),
            ],
        };
        for (name, bytes) in members {
            status[*name] = (*bytes).into();
        }
        status
    }
}

const FIRST_LINE: &str = "[{bar:24}] {msg}";
const SECOND_LINE: &str = "{msg}";
/// What the first line has before its text.
const BAR_COLUMNS: usize = 24 + 3;

/// Width of the terminal.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    size.map_or(80, |size| usize::from(size.ws_col)).max(40)
}

/// The beginning of a text that is too long.
fn fit(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

/// `12.3 GiB of 50.0 GiB, 24 %, 512.0 MiB/s, 1:13 min left`.
fn first_text(counts: &Counts, pace: &Pace) -> String {
    let mut parts = Vec::new();
    match counts.total {
        Some(total) => {
            parts.push(format!("{} of {}", show_bytes(counts.done), show_bytes(total)));
            let percent = u128::from(counts.done) * 100 / u128::from(total.max(1));
            parts.push(format!("{} %", percent.min(100)));
        }
        None => parts.push(show_bytes(counts.done)),
    }
    parts.push(show_rate(counts.done, pace.elapsed()));
    if let Some(left) = pace.left(counts) {
        parts.push(match left.as_secs() {
            seconds @ 0..10 => format!("{seconds} s left"),
            seconds => format!("{} left", show_duration(Duration::from_secs(seconds))),
        });
    }
    parts.join(", ")
}

/// `new 3.1 GiB, deduplicated 8.0 GiB, zeros 1.2 GiB`.
fn second_text(work: Work, counts: &Counts) -> String {
    let part = |name: &str, bytes: u64| format!("{name} {}", show_bytes(bytes));
    let mut parts = match work {
        Work::Capture => {
            vec![part("new", counts.new), part("deduplicated", counts.duplicate), part("zeros", counts.zeros)]
        }
        Work::Restore => vec![part("written", counts.written), part("unchanged", counts.unchanged)],
        Work::Check => vec![],
    };
    if counts.bad > 0 {
        parts.push(part("unreadable", counts.bad));
    }
    parts.join(", ")
}

/// How fast it goes, lately.
struct Pace {
    started: Instant,
    stage: Instant,
    seen: Instant,

    done: u64,
    bytes_per_second: Option<f64>,
}

impl Pace {
    fn new(now: Instant) -> Pace {
        Pace { started: now, stage: now, seen: now, done: 0, bytes_per_second: None }
    }

    #[allow(clippy::cast_precision_loss)] // An estimate for the eye.
    fn see(&mut self, now: Instant, done: u64) {
        if done < self.done {
            // A new stage: its pace is another.
            *self = Pace { started: self.started, ..Pace::new(now) };
        }
        let seconds = now.saturating_duration_since(self.seen).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let rate = (done - self.done) as f64 / seconds;
        // At first a plain average: a disk often begins with a hole, which says nothing of the rest.
        let window = now.saturating_duration_since(self.stage).min(RATE_WINDOW).as_secs_f64();
        let weight = (seconds / window.max(seconds)).min(1.0);
        let before = self.bytes_per_second.unwrap_or(rate);
        self.bytes_per_second = Some(before + (rate - before) * weight);
        (self.seen, self.done) = (now, done);
    }

    fn elapsed(&self) -> Duration {
        self.seen.saturating_duration_since(self.started)
    }

    /// Time left, once there is a total and a pace.
    #[allow(clippy::cast_precision_loss)] // An estimate for the eye.
    fn left(&self, counts: &Counts) -> Option<Duration> {
        let rate = self.bytes_per_second.filter(|rate| *rate >= 1.0)?;
        let left = counts.total?.saturating_sub(counts.done);
        Duration::try_from_secs_f64(left as f64 / rate).ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn pace(seconds: u64, done: u64) -> Pace {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.see(start + Duration::from_secs(seconds), done);
        pace
    }

    #[test]
    fn the_first_line_has_amount_share_rate_and_time_left() {
        let counts = Counts { total: Some(50 * GIB), done: 10 * GIB, ..Counts::default() };
        let text = first_text(&counts, &pace(20, 10 * GIB));
        assert_eq!(text, "10.0 GiB of 50.0 GiB, 20 %, 512.0 MiB/s, 1:20 min left");
        let stream = Counts { done: GIB, ..Counts::default() };
        assert_eq!(first_text(&stream, &pace(1, GIB)), "1.0 GiB, 1.0 GiB/s");
        assert_eq!(
            first_text(&Counts { total: Some(0), ..Counts::default() }, &pace(0, 0)),
            "0 B of 0 B, 0 %, 0 B/s"
        );
    }

    #[test]
    fn the_second_line_tells_what_the_work_is_about() {
        let counts = Counts { new: GIB, duplicate: 2 * GIB, zeros: 512, written: 1024, ..Counts::default() };
        assert_eq!(second_text(Work::Capture, &counts), "new 1.0 GiB, deduplicated 2.0 GiB, zeros 512 B");
        assert_eq!(second_text(Work::Restore, &counts), "written 1.0 KiB, unchanged 0 B");
        let bad = Counts { bad: 512, ..Counts::default() };
        assert_eq!(second_text(Work::Check, &bad), "unreadable 512 B");
    }

    #[test]
    fn a_new_stage_has_a_pace_of_its_own() {
        let mut pace = pace(10, GIB);
        let first = pace.bytes_per_second;
        pace.see(pace.seen + Duration::from_secs(1), 0);
        assert!(pace.bytes_per_second.is_none() && first.is_some());
    }

    #[test]
    fn long_lines_are_cut() {
        assert_eq!([fit("abc", 3), fit("abcd", 3), fit("añoñ", 3)], ["abc", "ab…", "añ…"]);
    }

    #[test]
    fn draws_two_lines() {
        for template in [FIRST_LINE, SECOND_LINE] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
