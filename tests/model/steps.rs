//! Every step that an actor may take: the protocol of DESIGN.md §5, as built or weakened.
//!
//! Promise: [`steps`] gives *all* steps possible in a state under the given [`Rules`], each one storage operation.
//! Two operations are one step only where nothing that happens between them could matter; it says so there.
//! Knows nothing of searching.

use std::fmt;

use crate::world::{
    Collector, CollectorStep, Image, Manifest, Packs, Roots, Rules, Scenario, Undelete, World, Writer,
    WriterStep,
};

/// What an actor did, for people.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    who: &'static str,
    number: usize,
    does: &'static str,
    packs: Packs,
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} {}", self.who, self.number, self.does)?;
        self.packs.iter().try_for_each(|pack| write!(out, " P{pack}"))
    }
}

/// All steps that are possible now.
pub(crate) fn steps(world: &World, scenario: &Scenario, rules: &Rules, out: &mut Vec<(World, Step)>) {
    out.clear();
    let mut steps = Steps { world, scenario, rules, out };
    steps.user();
    for number in 0..scenario.writers {
        steps.writer(number);
    }
    for number in 0..scenario.collectors {
        steps.collector(number);
        steps.retire(number);
    }
}

/// Collects the steps that lead out of one state.
struct Steps<'a> {
    world: &'a World,
    scenario: &'a Scenario,
    rules: &'a Rules,
    out: &'a mut Vec<(World, Step)>,
}

impl Steps<'_> {
    fn add(
        &mut self,
        who: &'static str,
        number: usize,
        does: &'static str,
        packs: Packs,
        change: impl FnOnce(&mut World),
    ) {
        let mut next = *self.world;
        change(&mut next);
        self.out.push((next, Step { who, number, does, packs }));
    }

    // --- the user: forget, and undelete (remove the tombstone, then check like a writer) ---

    fn user(&mut self) {
        if self.world.old.manifest == Manifest::Root {
            self.add("user", 0, "forgets the old image", Packs::EMPTY, |next| forget(&mut next.old));
        }
        for number in 0..self.scenario.writers {
            if self.world.writers[number].image.manifest == Manifest::Root {
                self.add("user", 0, "forgets a new image", Packs::EMPTY, |next| {
                    forget(&mut next.writers[number].image)
                });
            }
        }
        if self.scenario.undelete {
            self.undelete();
        }
    }

    fn undelete(&mut self) {
        let World { old, exists, undelete, .. } = *self.world;
        match undelete {
            Undelete::Idle if old.manifest == Manifest::Forgotten => {
                let unchecked = self.rules.undelete_without_check;
                self.add("undelete", 0, "removes the tombstone", Packs::EMPTY, |next| {
                    next.old = Image { manifest: Manifest::Root, promised: unchecked, ..old };
                    next.undelete = if unchecked { Undelete::Idle } else { Undelete::TombstoneRemoved };
                });
            }
            Undelete::Idle => {}
            Undelete::TombstoneRemoved => {
                let named =
                    !self.rules.unnamed_images && self.world.collectors.iter().any(|it| it.condemned_old);
                if named || old.manifest != Manifest::Root {
                    self.refuse_undelete();
                } else {
                    let first = self.first_half_of_check();
                    self.add("undelete", 0, "finds the manifest; first list:", first, |next| {
                        next.undelete = Undelete::Checking(first);
                    });
                }
            }
            // Any copy counts, found by moves or by scanning: the pack that the table names may have been evacuated.
            Undelete::Checking(first) => {
                let copies = self.second_half_of_check(first);
                if old.manifest != Manifest::Root || copies.is_empty() {
                    self.refuse_undelete();
                } else {
                    self.add("undelete", 0, "SUCCEEDS; packs:", exists, |next| {
                        next.old.promised = true;
                        next.undelete = Undelete::Idle;
                    });
                }
            }
        }
    }

    fn refuse_undelete(&mut self) {
        self.add("undelete", 0, "is refused", Packs::EMPTY, |next| next.undelete = Undelete::Idle);
    }

    // --- the post-check, in two storage operations: condemn records, then packs ---

    fn first_half_of_check(&self) -> Packs {
        if self.rules.writer_order { self.world.exists } else { self.world.condemned() }
    }

    /// The packs that exist and are not condemned, as far as the two lists say.
    fn second_half_of_check(&self, first: Packs) -> Packs {
        if self.rules.writer_order {
            first.without(self.world.condemned())
        } else {
            self.world.exists.without(first)
        }
    }

    // --- a capture ---

    fn writer(&mut self, number: usize) {
        match self.world.writers[number].step {
            WriterStep::Start => self.store(number),
            WriterStep::Stored(pack) if self.rules.no_postcheck => {
                let first = self.first_half_of_check();
                self.write(number, "checks before publishing; first list:", first, |writer| {
                    writer.step = WriterStep::CheckingBefore(pack, first);
                });
            }
            WriterStep::Stored(pack) => self.publish(number, pack),
            WriterStep::Superseding => {
                self.write(
                    number,
                    "puts a tombstone on the manifest it superseded",
                    Packs::EMPTY,
                    |writer| {
                        writer.superseded_is_root = false;
                        writer.step = WriterStep::Published;
                    },
                );
            }
            WriterStep::Published => {
                let first = self.first_half_of_check();
                self.write(number, "begins its post-check; first list:", first, |writer| {
                    writer.step = WriterStep::Checking(first);
                });
            }
            WriterStep::Checking(first) => self.finish_check(number, first),
            WriterStep::CheckingBefore(pack, first) => {
                if self.second_half_of_check(first).contains(pack) {
                    self.write(number, "finds all well", Packs::EMPTY, |writer| {
                        writer.step = WriterStep::Sure(pack)
                    });
                } else {
                    self.store(number);
                }
            }
            WriterStep::Sure(pack) => {
                self.write(number, "publishes and CONFIRMS a manifest naming", Packs::one(pack), |writer| {
                    writer.image = Image { manifest: Manifest::Root, named: pack, promised: true };
                    writer.step = WriterStep::Ended;
                });
            }
            WriterStep::Ended => {}
        }
    }

    fn write(&mut self, number: usize, does: &'static str, packs: Packs, change: impl FnOnce(&mut Writer)) {
        self.add("writer", number, does, packs, |next| change(&mut next.writers[number]));
    }

    /// The chunk goes into a fresh pack, or is believed to be in any that ever was.
    fn store(&mut self, number: usize) {
        let World { packs_created, exists, .. } = *self.world;
        if packs_created < self.scenario.packs {
            self.add("writer", number, "uploads", Packs::one(packs_created), |next| {
                next.create_pack();
                next.writers[number].step = WriterStep::Stored(packs_created);
            });
        }
        for pack in Packs::below(packs_created).iter() {
            self.write(number, "trusts its catalogue:", Packs::one(pack), |writer| {
                writer.step = WriterStep::Stored(pack);
            });
            if self.rules.name_reuse && !exists.contains(pack) {
                self.add("writer", number, "uploads under an old name", Packs::one(pack), |next| {
                    next.exists = next.exists.with(Packs::one(pack));
                    next.writers[number].step = WriterStep::Stored(pack);
                });
            }
        }
    }

    /// A table that names another pack is another table, so storing again means another manifest.
    fn publish(&mut self, number: usize, pack: u8) {
        let superseded_is_root = self.world.writers[number].image.manifest == Manifest::Root;
        self.write(number, "publishes a manifest naming", Packs::one(pack), |writer| {
            writer.image = Image { manifest: Manifest::Root, named: pack, promised: false };
            writer.superseded_is_root = superseded_is_root;
            writer.step = if superseded_is_root { WriterStep::Superseding } else { WriterStep::Published };
        });
    }

    /// Confirming is one step with the second list: if the promise is broken later, it was broken when made now, too.
    fn finish_check(&mut self, number: usize, first: Packs) {
        let image = self.world.writers[number].image;
        if self.second_half_of_check(first).contains(image.named) {
            self.write(number, "CONFIRMS its image", Packs::EMPTY, |writer| {
                writer.image.promised = image.manifest == Manifest::Root;
                writer.step = WriterStep::Ended;
            });
        } else {
            self.store(number);
            self.write(number, "gives up with an error", Packs::EMPTY, |writer| {
                writer.step = WriterStep::Ended
            });
        }
    }

    // --- a collector; scrub is one that begins with a damaged pack condemned ---

    fn collector(&mut self, number: usize) {
        match self.world.collectors[number].step {
            CollectorStep::Start if self.rules.no_reverify => {
                let roots = self.list_roots(true);
                self.collect(number, "lists manifests before condemning", Packs::EMPTY, |it| {
                    it.step = CollectorStep::ListedBefore(roots);
                });
            }
            CollectorStep::Start => self.condemn(number, CollectorStep::Condemned),
            CollectorStep::ListedBefore(roots) => self.condemn(number, CollectorStep::Listed(roots)),
            CollectorStep::Condemned => {
                let roots = self.list_roots(self.world.collectors[number].condemned_old);
                let does = if roots.live { "lists manifests: live" } else { "lists manifests: all dead" };
                self.collect(number, does, Packs::EMPTY, |it| it.step = CollectorStep::Listed(roots));
            }
            CollectorStep::Listed(roots) => {
                let first = self.first_half_of_verdict(number);
                self.collect(number, "reads; first list:", first, |it| {
                    it.step = CollectorStep::Judging(roots, first)
                });
            }
            CollectorStep::Judging(roots, first) => self.judge(number, roots, first),
            CollectorStep::Deleting(true, packs) => {
                // The manifest goes before the packs (I2), whatever has become of its tombstone meanwhile.
                self.add("collector", number, "deletes the old manifest", Packs::EMPTY, |next| {
                    next.old.manifest = Manifest::Deleted;
                    next.collectors[number].step = deleting(false, packs);
                });
            }
            CollectorStep::Deleting(false, packs) => {
                for pack in packs.iter().map(Packs::one) {
                    self.add("collector", number, "deletes", pack, |next| {
                        next.exists = next.exists.without(pack);
                        next.collectors[number].step = deleting(false, packs.without(pack));
                    });
                }
            }
            CollectorStep::Ended => {}
        }
    }

    fn collect(
        &mut self,
        number: usize,
        does: &'static str,
        packs: Packs,
        change: impl FnOnce(&mut Collector),
    ) {
        self.add("collector", number, does, packs, |next| change(&mut next.collectors[number]));
    }

    fn list_roots(&self, may_delete_old: bool) -> Roots {
        let forgotten = self.world.old.manifest == Manifest::Forgotten;
        Roots {
            live: self.world.has_root(),
            delete_old: may_delete_old && forgotten && self.scenario.undelete,
        }
    }

    /// Any packs, live ones included: which to choose is a matter of thrift, not of safety.
    fn condemn(&mut self, number: usize, then: CollectorStep) {
        let forgotten = self.scenario.undelete && self.world.old.manifest == Manifest::Forgotten;
        for packs in self.world.exists.choices() {
            self.collect(number, "condemns", packs, |it| {
                *it = Collector { step: then, condemned: packs, condemned_old: false };
            });
            if forgotten {
                self.collect(number, "condemns the old image and", packs, |it| {
                    *it = Collector { step: then, condemned: packs, condemned_old: true };
                });
            }
        }
    }

    fn first_half_of_verdict(&self, number: usize) -> Packs {
        match self.rules {
            Rules { collector_order: true, .. } => self.world.exists,
            Rules { own_record_only: true, .. } => self.world.collectors[number].condemned,
            _ => self.world.condemned(),
        }
    }

    /// Listing the packs and deciding are one step: the decision rests on the lists only.
    fn judge(&mut self, number: usize, roots: Roots, first: Packs) {
        let World { exists, damaged, packs_created, .. } = *self.world;
        let own = self.world.collectors[number].condemned;
        let copies = if self.rules.collector_order {
            first.without(self.world.condemned())
        } else {
            exists.without(first)
        };
        if !roots.live || !copies.is_empty() {
            let early_retire = self.rules.early_retire;
            let moved = if self.rules.moves_to_copies && roots.live { own } else { Packs::EMPTY };
            let moves = self.scenario.moves;
            self.add("collector", number, "decides to delete", own, |next| {
                next.record_moves(moves, moved, copies);
                let it = &mut next.collectors[number];
                it.step = deleting(roots.delete_old, own);
                if early_retire {
                    it.retire();
                }
            });
            return;
        }
        let readable = !exists.without(damaged).is_empty();
        if readable && packs_created < self.scenario.packs {
            self.evacuate(number, own.both(exists));
        }
        let uncondemn = self.rules.uncondemn;
        self.collect(number, "spares", own, |it| {
            it.step = deleting(roots.delete_old, Packs::EMPTY);
            if uncondemn {
                it.retire();
            }
        });
    }

    /// The fresh pack and its `moves` record are one step: safety rests on the pack, only hints on the record, and this
    /// collector deletes nothing before both are there.
    fn evacuate(&mut self, number: usize, from: Packs) {
        let fresh = Packs::one(self.world.packs_created);
        let moves = self.scenario.moves;
        let relist = !self.rules.no_reverify;
        self.add("collector", number, "evacuates to", fresh, |next| {
            next.create_pack();
            next.record_moves(moves, from, fresh);
            let it = &mut next.collectors[number];
            match it.step {
                CollectorStep::Judging(roots, _) if !relist => it.step = CollectorStep::Listed(roots),
                _ => it.step = CollectorStep::Condemned,
            }
        });
    }

    /// Anyone may drop a record when nothing that it names exists any more.
    fn retire(&mut self, number: usize) {
        let Collector { condemned, condemned_old, .. } = self.world.collectors[number];
        if condemned.is_empty() {
            return;
        }
        let old_is_gone = !condemned_old || self.world.old.manifest == Manifest::Deleted;
        if condemned.both(self.world.exists).is_empty() && old_is_gone {
            self.add("record", number, "is retired", condemned, |next| next.collectors[number].retire());
        }
        if self.rules.uncondemn && self.world.has_root() {
            self.add("record", number, "is adopted, its packs spared", condemned, |next| {
                next.collectors[number].retire();
            });
        }
    }
}

fn forget(image: &mut Image) {
    image.manifest = Manifest::Forgotten;
    image.promised = false;
}

fn deleting(old: bool, packs: Packs) -> CollectorStep {
    if old || !packs.is_empty() { CollectorStep::Deleting(old, packs) } else { CollectorStep::Ended }
}
