//! The scheduler: of all actors one runs at a time, from one backend call to the next; the seed says which.
//!
//! Promise: decisions depend on the seed and on which actors are ready, not on time or threads.
//! Knows nothing of stores: calls are a kind and a name.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use store::backend::Error;

/// A schedule longer than this is a loop that does not end.
const STEPS_MAX: u64 = 60_000;

/// One backend call of one actor.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) actor: usize,
    pub(crate) what: &'static str,
    pub(crate) name: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Ids are long: their beginnings do, with the suffix of markers.
        let (path, suffix) = self.name.split_once('.').unwrap_or((&self.name, ""));
        let path: String = path.chars().take(20).collect();
        write!(f, "{} {:8} {path} {suffix}", self.actor, self.what)
    }
}

#[derive(Clone, Default)]
struct Actor {
    /// It waits to be chosen.
    ready: bool,
    sleeps_until: u64,
    /// Calls until it dies.
    crash_in: Option<u64>,
    dead: bool,
}

/// What the seed has chosen for the whole schedule.
struct Style {
    burst_max: u64,
    sleep_one_in: u32,
    sleep_max: u64,
}

struct State {
    rng: StdRng,
    style: Style,
    actors: Vec<Actor>,
    running: Option<usize>,
    burst_left: u64,
    left: usize,
    steps: u64,
    crashes: u64,
    trace: Vec<Step>,
    failure: Option<String>,
}

/// See the file's head.
pub(crate) struct Scheduler {
    state: Mutex<State>,
    turns: Vec<Condvar>,
    done: Condvar,
}

impl Scheduler {
    pub(crate) fn new(seed: u64, actors: usize) -> Scheduler {
        let mut rng = StdRng::seed_from_u64(seed);
        let style = Style {
            burst_max: [1, 4, 20, 80][rng.random_range(0..4)],
            sleep_one_in: [8, 20, 60][rng.random_range(0..3)],
            sleep_max: [30, 150, 600][rng.random_range(0..3)],
        };
        let state = State {
            rng,
            style,
            actors: vec![Actor { ready: true, ..Actor::default() }; actors],
            running: None,
            burst_left: 0,
            left: actors,
            steps: 0,
            crashes: 0,
            trace: Vec::new(),
            failure: None,
        };
        let turns = std::iter::repeat_with(Condvar::new).take(actors).collect();
        Scheduler { state: Mutex::new(state), turns, done: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the first actor run; returns when all have finished.
    pub(crate) fn run(&self) {
        let mut state = self.state();
        self.pass_on(&mut state);
        while state.left > 0 {
            state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// An actor's first words: waits for its first turn.
    pub(crate) fn begin(&self, actor: usize) {
        drop(self.wait(self.state(), actor));
    }

    /// An actor has no more to do.
    pub(crate) fn finish(&self, actor: usize) {
        let mut state = self.state();
        state.actors[actor].ready = false;
        state.left -= 1;
        self.pass_on(&mut state);
        if state.left == 0 {
            self.done.notify_all();
        }
    }

    /// A new process in place of the actor's last one; it dies after so many calls.
    pub(crate) fn revive(&self, actor: usize, crash_in: Option<u64>) {
        let mut state = self.state();
        state.actors[actor].dead = false;
        state.actors[actor].crash_in = crash_in;
    }

    pub(crate) fn is_dead(&self, actor: usize) -> bool {
        let state = self.state();
        state.actors[actor].dead || state.failure.is_some()
    }

    /// One call: waits for the actor's turn. [`Error::Stopped`] when the actor is dead.
    pub(crate) fn call(&self, actor: usize, what: &'static str, name: &str) -> Result<(), Error> {
        let mut state = self.state();
        if state.actors[actor].dead || state.failure.is_some() {
            return Err(Error::Stopped);
        }
        state.actors[actor].ready = true;
        self.pass_on(&mut state);
        state = self.wait(state, actor);
        state.steps += 1;
        if state.steps > STEPS_MAX {
            state.failure = Some("the schedule does not end".to_string());
        }
        if state.failure.is_some() {
            return Err(Error::Stopped);
        }
        if let Some(left) = &mut state.actors[actor].crash_in {
            *left = left.saturating_sub(1);
            if *left == 0 {
                state.actors[actor].dead = true;
                state.crashes += 1;
                state.trace.push(Step { actor, what: "CRASH", name: name.to_string() });
                return Err(Error::Stopped);
            }
        }
        state.trace.push(Step { actor, what, name: name.to_string() });
        Ok(())
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State>, actor: usize) -> MutexGuard<'a, State> {
        while state.running != Some(actor) {
            state = self.turns[actor].wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.actors[actor].ready = false;
        state
    }

    fn pass_on(&self, state: &mut State) {
        let last = state.running;
        let next = state.choose();
        state.running = next;
        if let Some(next) = next.filter(|_| next != last) {
            self.turns[next].notify_one();
        }
    }

    /// A line of the trace that is no backend call.
    pub(crate) fn note(&self, actor: usize, what: &'static str, name: String) {
        self.state().trace.push(Step { actor, what, name });
    }

    /// Something was lost: everybody stops.
    pub(crate) fn fail(&self, what: String) {
        self.state().failure.get_or_insert(what);
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    pub(crate) fn steps_and_crashes(&self) -> (u64, u64) {
        let state = self.state();
        (state.steps, state.crashes)
    }

    pub(crate) fn trace(&self) -> Vec<Step> {
        self.state().trace.clone()
    }
}

impl State {
    fn choose(&mut self) -> Option<usize> {
        if let Some(last) = self.running.filter(|last| self.burst_left > 0 && self.actors[*last].ready) {
            self.burst_left -= 1;
            return Some(last);
        }
        if let Some(last) = self.running.filter(|_| self.rng.random_range(0..self.style.sleep_one_in) == 0) {
            self.actors[last].sleeps_until = self.steps + self.rng.random_range(1..=self.style.sleep_max);
        }
        let ready = |all: bool, actors: &[Actor], now: u64| -> Vec<usize> {
            let wakes = |actor: &Actor| actor.ready && (all || actor.sleeps_until <= now);
            (0..actors.len()).filter(|actor| wakes(&actors[*actor])).collect()
        };
        let mut choice = ready(false, &self.actors, self.steps);
        if choice.is_empty() {
            choice = ready(true, &self.actors, self.steps);
        }
        self.burst_left = self.rng.random_range(0..self.style.burst_max);
        if choice.is_empty() { None } else { Some(choice[self.rng.random_range(0..choice.len())]) }
    }
}
