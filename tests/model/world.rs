//! The world of the model: what lies in the store, where each actor stands, and what counts as loss.
//!
//! Promise: a [`World`] is everything that a later step can depend on, and nothing else.
//! Knows nothing of the steps (`steps.rs`) nor of searching.

/// How much of the world a run contains. Less of one part leaves room for more of another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) writers: usize,
    pub(crate) collectors: usize,
    /// Pack names that can ever be given out.
    pub(crate) packs: u8,
    /// The user may take back having forgotten the old image.
    pub(crate) undelete: bool,
    /// `moves` records are part of the state, so that hints can be followed.
    pub(crate) moves: bool,
    /// Pack 0 is damaged, pack 1 has a good copy, and the first collector is a scrub that has just condemned pack 0.
    pub(crate) scrub: bool,
}

impl Scenario {
    pub(crate) const NONE: Scenario = Scenario {
        name: "",
        writers: 0,
        collectors: 0,
        packs: 0,
        undelete: false,
        moves: false,
        scrub: false,
    };
}

/// The protocol, as built or weakened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    /// The writer checks before it publishes, and not after.
    pub(crate) no_postcheck: bool,
    /// The post-check lists the packs before it reads the condemn records.
    pub(crate) writer_order: bool,
    /// A pack's name can come back: no salt in its header.
    pub(crate) name_reuse: bool,
    /// A collector heeds no condemn record but its own.
    pub(crate) own_record_only: bool,
    /// A collector lists the packs before it reads the condemn records.
    pub(crate) collector_order: bool,
    /// A collector trusts the manifests it listed before it condemned.
    pub(crate) no_reverify: bool,
    /// Spared packs come back into use.
    pub(crate) uncondemn: bool,
    /// A condemn record is dropped before the deletions it announces.
    pub(crate) early_retire: bool,
    /// Undelete removes the tombstone and promises at once.
    pub(crate) undelete_without_check: bool,
    /// Condemn records name packs only, not the forgotten manifests that will be deleted.
    pub(crate) unnamed_images: bool,
    /// Not a weakening: a collector that relies on a copy elsewhere writes a `moves` record for that, too.
    pub(crate) moves_to_copies: bool,
}

impl Rules {
    pub(crate) const AS_BUILT: Rules = Rules {
        no_postcheck: false,
        writer_order: false,
        name_reuse: false,
        own_record_only: false,
        collector_order: false,
        no_reverify: false,
        uncondemn: false,
        early_retire: false,
        undelete_without_check: false,
        unnamed_images: false,
        moves_to_copies: false,
    };
}

pub(crate) const PACKS_MAX: usize = 4;
const WRITERS_MAX: usize = 2;
const COLLECTORS_MAX: usize = 2;

/// A set of packs, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Packs(u8);

impl Packs {
    pub(crate) const EMPTY: Packs = Packs(0);

    pub(crate) fn one(pack: u8) -> Packs {
        Packs(1 << pack)
    }

    pub(crate) fn below(count: u8) -> Packs {
        Packs((1 << count) - 1)
    }

    pub(crate) fn contains(self, pack: u8) -> bool {
        self.0 >> pack & 1 == 1
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn with(self, other: Packs) -> Packs {
        Packs(self.0 | other.0)
    }

    pub(crate) fn without(self, other: Packs) -> Packs {
        Packs(self.0 & !other.0)
    }

    pub(crate) fn both(self, other: Packs) -> Packs {
        Packs(self.0 & other.0)
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = u8> {
        (0..8).filter(move |pack| self.contains(*pack))
    }

    /// Every subset that is not empty.
    pub(crate) fn choices(self) -> impl Iterator<Item = Packs> {
        (1..=self.0).map(Packs).filter(move |choice| choice.without(self).is_empty())
    }
}

/// What lies in the store under one image's name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum Manifest {
    Unpublished,
    /// There, without tombstone: collectors keep what it needs.
    Root,
    /// There, with a tombstone.
    Forgotten,
    Deleted,
}

/// One image: its table names one pack.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Image {
    pub(crate) manifest: Manifest,
    pub(crate) named: u8,
    /// Somebody was told "done" for it and has not removed it since.
    pub(crate) promised: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum WriterStep {
    Start,
    /// Has a pack that, it believes, holds the chunk.
    Stored(u8),
    /// Has published a manifest that replaces an unconfirmed one, which is still a root.
    Superseding,
    Published,
    /// Half of the post-check: the condemned packs as read (weakened: the packs as listed).
    Checking(Packs),
    /// Weakened: checks before publishing.
    CheckingBefore(u8, Packs),
    Sure(u8),
    Ended,
}

/// A capture and the image that it publishes. Of a superseded manifest only "is still a root" is kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Writer {
    pub(crate) step: WriterStep,
    pub(crate) image: Image,
    pub(crate) superseded_is_root: bool,
}

/// The person who forgets images and takes that back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum Undelete {
    Idle,
    TombstoneRemoved,
    Checking(Packs),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum CollectorStep {
    Start,
    /// Weakened: has listed the manifests before condemning.
    ListedBefore(Roots),
    Condemned,
    Listed(Roots),
    /// Half of the verdict: the condemned packs as read (weakened: the packs as listed).
    Judging(Roots, Packs),
    Deleting(bool, Packs),
    Ended,
}

/// What a listing of the manifests says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Roots {
    pub(crate) live: bool,
    /// The old image is forgotten and this collector may delete its manifest.
    pub(crate) delete_old: bool,
}

/// A collector and its condemn record; an empty record is none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Collector {
    pub(crate) step: CollectorStep,
    pub(crate) condemned: Packs,
    pub(crate) condemned_old: bool,
}

/// One state of everything.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct World {
    pub(crate) exists: Packs,
    pub(crate) packs_created: u8,
    pub(crate) damaged: Packs,
    pub(crate) moves: [Packs; PACKS_MAX],
    pub(crate) old: Image,
    pub(crate) undelete: Undelete,
    pub(crate) writers: [Writer; WRITERS_MAX],
    pub(crate) collectors: [Collector; COLLECTORS_MAX],
}

/// How the promised images of a state are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hints {
    pub(crate) named: u64,
    pub(crate) moved: u64,
    pub(crate) scanned: u64,
}

impl World {
    pub(crate) fn initial(scenario: &Scenario) -> World {
        let unpublished = Image { manifest: Manifest::Unpublished, named: 0, promised: false };
        let writer = |number| Writer {
            step: if number < scenario.writers { WriterStep::Start } else { WriterStep::Ended },
            image: unpublished,
            superseded_is_root: false,
        };
        let collector = |number| Collector {
            step: if number < scenario.collectors { CollectorStep::Start } else { CollectorStep::Ended },
            condemned: Packs::EMPTY,
            condemned_old: false,
        };
        let mut world = World {
            exists: Packs::one(0),
            packs_created: 1,
            damaged: Packs::EMPTY,
            moves: [Packs::EMPTY; PACKS_MAX],
            old: Image { manifest: Manifest::Root, named: 0, promised: true },
            undelete: Undelete::Idle,
            writers: [writer(0), writer(1)],
            collectors: [collector(0), collector(1)],
        };
        if scenario.scrub {
            world.exists = Packs::below(2);
            world.packs_created = 2;
            world.damaged = Packs::one(0);
            world.collectors[0].step = CollectorStep::Condemned;
            world.collectors[0].condemned = Packs::one(0);
        }
        world
    }

    /// A promised image has no manifest, or no pack holds its chunk.
    pub(crate) fn is_lost(&self) -> bool {
        let unreadable = self.exists.without(self.damaged).is_empty();
        self.images().any(|image| image.promised && (unreadable || image.manifest != Manifest::Root))
    }

    /// Every writer of the scenario has been told "done" and its image is still there.
    pub(crate) fn is_confirmed(&self, scenario: &Scenario) -> bool {
        self.writers.iter().take(scenario.writers).all(|writer| writer.image.promised)
    }

    pub(crate) fn count_hints(&self, hints: &mut Hints) {
        for image in self.images().filter(|image| image.promised) {
            if self.exists.contains(image.named) {
                hints.named += 1;
            } else if self.follow_moves(image.named).both(self.exists).is_empty() {
                hints.scanned += 1;
            } else {
                hints.moved += 1;
            }
        }
    }

    /// The same state for every numbering of writers and of collectors: they are alike.
    pub(crate) fn canonical(mut self, scenario: &Scenario) -> World {
        self.writers[..scenario.writers].sort_unstable();
        self.collectors[..scenario.collectors].sort_unstable();
        self
    }

    pub(crate) fn images(&self) -> impl Iterator<Item = Image> {
        self.writers.iter().map(|writer| writer.image).chain([self.old])
    }

    pub(crate) fn has_root(&self) -> bool {
        self.images().any(|image| image.manifest == Manifest::Root)
            || self.writers.iter().any(|writer| writer.superseded_is_root)
    }

    pub(crate) fn condemned(&self) -> Packs {
        self.collectors.iter().fold(Packs::EMPTY, |all, collector| all.with(collector.condemned))
    }

    pub(crate) fn follow_moves(&self, pack: u8) -> Packs {
        let mut reached = Packs::one(pack);
        // One round for each pack: the longest chain there can be.
        for _ in 0..PACKS_MAX {
            reached = reached.iter().fold(reached, |all, pack| all.with(self.moves[usize::from(pack)]));
        }
        reached
    }
}

impl World {
    pub(crate) fn create_pack(&mut self) {
        self.exists = self.exists.with(Packs::one(self.packs_created));
        self.packs_created += 1;
    }

    pub(crate) fn record_moves(&mut self, wanted: bool, from: Packs, to: Packs) {
        for pack in from.iter().filter(|_| wanted) {
            let moves = &mut self.moves[usize::from(pack)];
            *moves = moves.with(to.without(Packs::one(pack)));
        }
    }
}

impl Collector {
    pub(crate) fn retire(&mut self) {
        self.condemned = Packs::EMPTY;
        self.condemned_old = false;
    }
}
