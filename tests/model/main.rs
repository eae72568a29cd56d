//! Explicit-state model of how images are written, taken away and brought back (DESIGN.md §5): every interleaving of
//! single storage operations of all actors is explored, and an image that a user was promised must stay readable.
//!
//! Promise: the protocol (with one addition, see below) is safe in every reachable state of the scenarios; each of the
//! ten weakenings (a step left out or two swapped) is shown to lose data, with the shortest way there.
//!
//! Why so small a world says something:
//! - *One chunk.* A pack may go only if each of its chunks is dead or has another safe copy, so safety decouples by
//!   chunk. Every pack in the model holds this chunk; every image needs it.
//! - *No clock, no sessions.* A session makes a collector wait and does nothing else; collectors here never wait.
//! - *Actors stop anywhere.* A crash, a host asleep for a month and a slow disk are all "takes no further step".
//! - *Catalogues lie.* A writer may believe that any pack that ever existed holds the chunk, and reuse a table that
//!   names it; a collector may choose to condemn any set of packs, live ones included.
//! - *Scenarios instead of one product.* Undelete, scrub and the `moves` records multiply the states, so each is
//!   explored where it can matter; the weakenings use the same scenarios.
//!
//! One rule here is stricter than §5.6: a condemn record names the forgotten manifests, too, and undelete refuses what it
//! names. The code removes manifests before it condemns, under the lock of §5.5, which keeps undelete and gc apart. The
//! last weakening is its near kin without that lock (tombstone seen, taken back, manifest deleted). A home without locks needs the stricter rule before it may undelete.
//!
//! Knows nothing of the code in `store`: it is the argument, and the code quotes its steps.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the numbers of states and the traces are what people run this for")]

mod explore;
mod steps;
mod world;

use explore::{Outcome, explore, find_loss};
use world::{Rules, Scenario};

/// As built: the scenarios whose states the protocol test explores.
const SCENARIOS: [Scenario; 6] = [ONE_COLLECTOR, TWO_COLLECTORS, MOVES, UNDELETE, SCRUB, SCRUB_AND_COLLECTOR];

const ONE_COLLECTOR: Scenario = Scenario {
    name: "2 writers, 1 collector, 4 packs, undelete",
    writers: 2,
    collectors: 1,
    packs: 4,
    undelete: true,
    ..Scenario::NONE
};
const TWO_COLLECTORS: Scenario = Scenario {
    name: "2 writers, 2 collectors, 3 packs",
    writers: 2,
    collectors: 2,
    packs: 3,
    ..Scenario::NONE
};
const MOVES: Scenario = Scenario {
    name: "2 writers, 1 collector, 4 packs, moves",
    writers: 2,
    collectors: 1,
    packs: 4,
    moves: true,
    ..Scenario::NONE
};
const UNDELETE: Scenario = Scenario {
    name: "1 writer, 2 collectors, 3 packs, undelete",
    writers: 1,
    collectors: 2,
    packs: 3,
    undelete: true,
    ..Scenario::NONE
};
const SCRUB: Scenario = Scenario {
    name: "2 writers, scrub of a damaged pack, 4 packs, undelete",
    writers: 2,
    collectors: 1,
    packs: 4,
    undelete: true,
    scrub: true,
    ..Scenario::NONE
};
const SCRUB_AND_COLLECTOR: Scenario = Scenario {
    name: "2 writers, scrub of a damaged pack, 1 collector, 3 packs",
    writers: 2,
    collectors: 2,
    packs: 3,
    scrub: true,
    ..Scenario::NONE
};

/// Large enough for each weakening to lose data; small, so that the way there is short to find.
const SMALL: Scenario = Scenario {
    name: "1 writer, 2 collectors, 2 packs",
    writers: 1,
    collectors: 2,
    packs: 2,
    ..Scenario::NONE
};
const SMALL_UNDELETE: Scenario = Scenario {
    name: "1 writer, 1 collector, 2 packs, undelete",
    writers: 1,
    collectors: 1,
    packs: 2,
    undelete: true,
    ..Scenario::NONE
};

fn run(scenario: &Scenario, rules: &Rules) -> Outcome {
    let outcome = explore(scenario, rules);
    println!("{}: {outcome}", scenario.name);
    outcome
}

#[test]
fn the_protocol_never_loses_a_promised_image() {
    for scenario in &SCENARIOS {
        let outcome = run(scenario, &Rules::AS_BUILT);
        assert_eq!(outcome.loss, None, "{}", scenario.name);
        assert!(outcome.confirmed_states > 0, "{}: nothing was ever confirmed", scenario.name);
    }
}

/// Evacuation leaves a `moves` record, so most images are read without scanning; where a collector relied on a copy that
/// was there already, only a record for that as well makes every hint resolve.
#[test]
fn hints_lead_to_the_chunk_by_moves() {
    let as_built = run(&MOVES, &Rules::AS_BUILT).hints;
    assert!(as_built.named > 0 && as_built.moved > 0);
    let all_moves = run(&MOVES, &Rules { moves_to_copies: true, ..Rules::AS_BUILT }).hints;
    assert_eq!(all_moves.scanned, 0);
}

/// Asserts that the weakened protocol loses data, and prints the shortest way to it.
#[track_caller]
fn loses_data(scenario: &Scenario, rules: Rules) {
    let outcome = find_loss(scenario, &rules);
    let trace = outcome.loss.as_ref().expect("this weakening must lose data: the model has gone blind");
    println!("{}: {outcome}:\n    {}", scenario.name, trace.join("\n    "));
}

#[test]
fn without_the_post_check_data_is_lost() {
    loses_data(&SMALL, Rules { no_postcheck: true, ..Rules::AS_BUILT });
}

#[test]
fn a_writer_that_lists_packs_first_loses_data() {
    loses_data(&SMALL, Rules { writer_order: true, ..Rules::AS_BUILT });
}

#[test]
fn pack_names_that_come_back_lose_data() {
    loses_data(&SMALL, Rules { name_reuse: true, ..Rules::AS_BUILT });
}

#[test]
fn a_collector_that_heeds_only_its_own_record_loses_data() {
    loses_data(&SMALL, Rules { own_record_only: true, ..Rules::AS_BUILT });
}

#[test]
fn a_collector_that_lists_packs_first_loses_data() {
    loses_data(&SMALL, Rules { collector_order: true, ..Rules::AS_BUILT });
}

#[test]
fn without_listing_manifests_again_data_is_lost() {
    loses_data(&SMALL, Rules { no_reverify: true, ..Rules::AS_BUILT });
}

#[test]
fn spared_packs_that_return_to_use_lose_data() {
    loses_data(&SMALL, Rules { uncondemn: true, ..Rules::AS_BUILT });
}

#[test]
fn a_record_dropped_before_its_deletions_loses_data() {
    loses_data(&SMALL, Rules { early_retire: true, ..Rules::AS_BUILT });
}

#[test]
fn undelete_without_the_check_loses_data() {
    loses_data(&SMALL_UNDELETE, Rules { undelete_without_check: true, ..Rules::AS_BUILT });
}

/// A collector that has seen the tombstone deletes the manifest at any later time: only its record can warn undelete.
#[test]
fn a_record_that_names_no_forgotten_images_loses_data() {
    loses_data(&SMALL_UNDELETE, Rules { unnamed_images: true, ..Rules::AS_BUILT });
}
