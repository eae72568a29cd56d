//! Breadth-first search through every reachable state of the model.
//!
//! Promise: visits each state once; the trace to a loss is a shortest one. Without a loss, every state was seen.
//! Knows nothing of what the states mean.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use crate::steps::{Step, steps};
use crate::world::{Hints, Rules, Scenario, World};

/// What a search found.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) states: usize,
    pub(crate) transitions: u64,
    /// States in which every writer has been told "done".
    pub(crate) confirmed_states: u64,
    pub(crate) hints: Hints,
    /// The steps to a state in which a promised image is lost.
    pub(crate) loss: Option<Vec<String>>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { states, transitions, confirmed_states, hints, loss } = self;
        match loss {
            None => write!(
                out,
                "safe, {states} states, {transitions} transitions, {confirmed_states} all confirmed"
            )?,
            Some(trace) => write!(out, "DATA LOSS in {} steps after {states} states", trace.len())?,
        }
        write!(out, "; hints: {} named, {} moved, {} scanned", hints.named, hints.moved, hints.scanned)
    }
}

/// Everything reachable, one state for all numberings of actors that are alike. Keeps no traces, to be small.
pub(crate) fn explore(scenario: &Scenario, rules: &Rules) -> Outcome {
    let first = World::initial(scenario).canonical(scenario);
    let mut seen: HashSet<World, BuildHasherDefault<Mix>> = HashSet::default();
    let mut outcome =
        Outcome { states: 0, transitions: 0, confirmed_states: 0, hints: Hints::default(), loss: None };
    let mut possible = Vec::new();
    let mut frontier = vec![first];
    seen.insert(first);
    while let Some(world) = frontier.pop() {
        if world.is_lost() {
            return find_loss(scenario, rules);
        }
        outcome.confirmed_states += u64::from(world.is_confirmed(scenario));
        world.count_hints(&mut outcome.hints);
        steps(&world, scenario, rules, &mut possible);
        for (next, _) in possible.drain(..) {
            outcome.transitions += 1;
            let next = next.canonical(scenario);
            if seen.insert(next) {
                frontier.push(next);
            }
        }
    }
    outcome.states = seen.len();
    outcome
}

/// The nearest loss and the way to it; actors keep their numbers, so that the trace reads well.
pub(crate) fn find_loss(scenario: &Scenario, rules: &Rules) -> Outcome {
    let first = World::initial(scenario);
    let mut found_from: HashMap<World, World, BuildHasherDefault<Mix>> = HashMap::default();
    let mut outcome =
        Outcome { states: 0, transitions: 0, confirmed_states: 0, hints: Hints::default(), loss: None };
    let mut possible = Vec::new();
    let mut frontier = vec![first];
    found_from.insert(first, first);
    while !frontier.is_empty() && outcome.loss.is_none() {
        for world in std::mem::take(&mut frontier) {
            if world.is_lost() {
                outcome.loss = Some(trace(scenario, rules, &found_from, world));
                break;
            }
            steps(&world, scenario, rules, &mut possible);
            for (next, _) in possible.drain(..) {
                outcome.transitions += 1;
                found_from.entry(next).or_insert_with(|| {
                    frontier.push(next);
                    world
                });
            }
        }
    }
    outcome.states = found_from.len();
    outcome
}

/// Walks back to the start and asks each state again by which step it leads to the next.
fn trace(
    scenario: &Scenario,
    rules: &Rules,
    found_from: &HashMap<World, World, BuildHasherDefault<Mix>>,
    last: World,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut possible: Vec<(World, Step)> = Vec::new();
    let mut world = last;
    while found_from[&world] != world {
        let before = found_from[&world];
        steps(&before, scenario, rules, &mut possible);
        lines.extend(possible.iter().find(|(next, _)| *next == world).map(|(_, step)| step.to_string()));
        world = before;
    }
    lines.reverse();
    lines
}

/// A quick hash (multiply and rotate): millions of small states, and nobody here attacks the table.
#[derive(Default)]
pub(crate) struct Mix(u64);

impl Mix {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            self.mix(chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.mix(u64::from(value));
    }

    fn write_isize(&mut self, value: isize) {
        self.mix(value.unsigned_abs() as u64);
    }

    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64);
    }

    fn finish(&self) -> u64 {
        // The table takes its bits from both ends; the product leaves the low ones weak.
        self.0 ^ self.0 >> 32
    }
}
