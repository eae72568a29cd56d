//! Random tables, needs, targets and wishes: what must be true of every arrangement.

use proptest::prelude::*;

use super::*;

/// One partition, roughly.
#[derive(Clone, Debug)]
struct Part {
    /// How far behind the one before, in sectors, and whether on a border.
    gap: (u64, bool),
    sectors: u64,
    /// Size in whole MiB instead.
    whole: bool,
    /// Of 16: which type.
    kind: u8,
    /// Minimum in 256ths of the size; none: nothing is known of it.
    min: Option<u8>,
    can_grow: bool,
    fixed: bool,
    max: Option<u64>,
    chosen: bool,
}

#[derive(Clone, Debug)]
struct Case {
    parts: Vec<Part>,
    gpt: bool,
    /// How many of the parts are logical, from which on.
    logical: (usize, usize),
    /// The chain begins with the last one by place.
    backwards: bool,
    sectors: (u32, u32),
    mode: u8,
    to_gpt: bool,
    create: bool,
    only: bool,
    /// The target, in 256ths of the source's end.
    target: u64,
}

fn part() -> impl Strategy<Value = Part> {
    let gap = (prop_oneof![Just(0_u64), 0..100_u64, 0..40_000_u64], any::<bool>());
    let sectors = prop_oneof![1..5000_u64, 1..400_000_u64, 1..40_000_000_u64];
    let max = proptest::option::of(0..4_000_000_u64);
    let needs = (proptest::option::of(any::<u8>()), any::<bool>(), proptest::bool::weighted(0.1), max);
    (gap, sectors, any::<bool>(), 0..16_u8, needs, proptest::bool::weighted(0.7)).prop_map(
        |(gap, sectors, whole, kind, (min, can_grow, fixed, max), chosen)| Part {
            gap,
            sectors,
            whole,
            kind,
            min,
            can_grow,
            fixed,
            max,
            chosen,
        },
    )
}

fn case(gpt: bool) -> impl Strategy<Value = Case> {
    let rare = || proptest::bool::weighted(0.1);
    let sectors = prop_oneof![8 => Just((512, 512)), 1 => Just((512, 4096)), 1 => Just((4096, 512)), 1 => Just((4096, 4096))];
    let target = prop_oneof![64..300_u64, 256..260_u64, 256..2560_u64];
    let flags = (any::<bool>(), rare(), rare(), rare());
    (proptest::collection::vec(part(), 1..8), (0..5_usize, 0..4_usize), sectors, 0..4_u8, flags, target)
        .prop_map(move |(parts, logical, sectors, mode, (backwards, to_gpt, create, only), target)| Case {
            parts,
            gpt,
            logical,
            backwards,
            sectors,
            mode,
            to_gpt,
            create,
            only,
            target,
        })
}

impl Case {
    fn sector(&self) -> u64 {
        u64::from(self.sectors.0)
    }

    /// Places of the parts, one behind the other, with room for records before those from `logical` on.
    fn places(&self, logical: impl Fn(usize) -> bool) -> Vec<(u64, u64, u64)> {
        let sector = self.sector();
        let mut cursor = if self.gpt { 34 * 4096 } else { sector };
        let mut places = Vec::new();
        for (index, part) in self.parts.iter().enumerate() {
            let least = if logical(index) { 2 * sector } else { 0 };
            let mut offset = cursor + least + part.gap.0 * sector;
            if part.gap.1 {
                offset = offset.next_multiple_of(MIB);
            }
            let bytes = part.sectors * sector;
            let bytes = if part.whole { bytes.next_multiple_of(MIB) } else { bytes };
            let lead = if logical(index) { least.max((offset - cursor).min(part.gap.0 * sector)) } else { 0 };
            places.push((offset, bytes, lead));
            cursor = offset + bytes;
        }
        places
    }

    fn table(&self) -> PartitionTable {
        const GPT_TYPES: [&str; 3] = [ESP, RECOVERY, "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"];
        if self.gpt {
            let places = self.places(|_| false);
            let type_of = |part: &Part| *GPT_TYPES.get(usize::from(part.kind)).unwrap_or(&LINUX);
            let parts: Vec<(&str, u64, u64)> = places
                .iter()
                .zip(&self.parts)
                .map(|(place, part)| (type_of(part), place.0, place.1))
                .collect();
            return gpt_of(self.sectors.0, &parts);
        }
        let (len, parts) = (self.logical.0, self.parts.len());
        let first = self.logical.1.min(parts);
        // At most four numbers beside the logical ones, the extended partition's included.
        let len = len.max(parts.saturating_sub(3)).min(parts - first.min(3));
        let first = first.min(3).min(parts - len);
        let len = if parts <= 4 && self.logical.0 == 0 { 0 } else { len.max(parts.saturating_sub(3)) };
        let logical = |index: usize| (first..first + len).contains(&index);
        let mut numbers: Vec<u32> = Vec::new();
        let (mut primary, mut chained) = (1..=4, 0);
        for index in 0..parts {
            if logical(index) {
                let step = if self.backwards { u32::try_from(len).unwrap() - 1 - chained } else { chained };
                numbers.push(5 + step);
                chained += 1;
            } else {
                numbers.push(primary.next().expect("three primary partitions at most, or four alone"));
            }
        }
        let places = self.places(logical);
        let rows: Vec<(u32, u8, u64, u64, u64)> = (places.iter().zip(&self.parts).zip(&numbers).enumerate())
            .map(|(index, ((place, part), number))| {
                let type_id = [0xef, 0x27, 0x82, 0x07].get(usize::from(part.kind)).copied().unwrap_or(0x83);
                // The first of the chain has its record at the start of the extended partition.
                let apart = self.backwards && *number == 5 && index > first;
                (*number, type_id, place.0, place.1, if apart { 0 } else { place.2 })
            })
            .collect();
        mbr_of(self.sectors.0, &rows)
    }

    fn needs(&self, table: &PartitionTable) -> Vec<Need> {
        let mut needs = Vec::new();
        for (index, part) in table.by_place().into_iter().zip(&self.parts) {
            let entry = &table.entries[index];
            let Some(min) = part.min else { continue };
            needs.push(Need {
                number: entry.number,
                min_bytes: entry.extent.bytes / 256 * u64::from(min),
                can_grow: part.can_grow,
                fixed: part.fixed,
                max_bytes: part.max.map(|sectors| entry.extent.bytes + sectors * 512),
                ..Need::default()
            });
        }
        needs
    }

    fn wishes(&self, table: &PartitionTable) -> Wishes {
        let mode = [Mode::Keep, Mode::Grow, Mode::Proportional, Mode::Fit][usize::from(self.mode)].clone();
        let chosen = table.by_place().into_iter().zip(&self.parts).filter(|(_, part)| part.chosen);
        let chosen: Vec<u32> = chosen.map(|(index, _)| table.entries[index].number).collect();
        Wishes { mode, to_gpt: self.to_gpt, create: self.create, only: self.only.then_some(chosen) }
    }
}

/// What must be true of an arrangement, whatever was wished.
fn assert_sound(source: &PartitionTable, needs: &[Need], wishes: &Wishes, found: &Arrangement) {
    let sector = u64::from(found.target.sector_bytes);
    let area = Area::of(&found.table, found.target);
    let mut cursor = area.first;
    for placed in &found.volumes {
        let entry = found.table.entries().iter().find(|entry| entry.number == placed.becomes).unwrap();
        let before = source.entries().iter().find(|entry| entry.number == placed.number).unwrap();
        assert_eq!((entry.extent, before.extent), (placed.to, placed.from));
        assert!(entry.begin() >= cursor, "{placed:?} overlaps");
        cursor = placed.to.end();
        assert!(placed.to.offset % sector == 0 && placed.to.bytes % sector == 0, "{placed:?}");
        assert!(placed.to.offset == placed.from.offset || placed.to.offset % MIB == 0, "{placed:?}");
        let was = placed.from.bytes.next_multiple_of(sector);
        assert_eq!(placed.to.bytes.abs_diff(was) % MIB, 0, "{placed:?}");
        let need = needs.iter().find(|need| need.number == placed.number);
        let least = need.map_or(was, |need| need.min_bytes.min(was));
        let most = need.filter(|need| need.can_grow).map_or(was, |need| need.max_bytes.unwrap_or(u64::MAX));
        assert!((least..=most.max(was)).contains(&placed.to.bytes), "{placed:?}: {need:?}");
        let fixed = types::is_fixed(&entry.type_id) || need.is_some_and(|need| need.fixed);
        if fixed || wishes.mode == Mode::Keep {
            assert_eq!(placed.to.bytes, was);
        }
    }
    assert!(cursor <= area.end, "the last one ends at {cursor}, the area at {}", area.end);
    let in_order = |pair: &[Placed]| pair[0].from.offset < pair[1].from.offset;
    assert!(found.volumes.windows(2).all(in_order), "the order is not kept");
    let grown = found.volumes.iter().filter(|placed| placed.to.bytes > placed.from.bytes + MIB).count();
    let shrunk = found.volumes.iter().filter(|placed| placed.to.bytes < placed.from.bytes).count();
    assert!(grown <= [0, 1][usize::from(wishes.mode == Mode::Grow)] || wishes.mode == Mode::Proportional);
    assert!(grown == 0 || shrunk == 0);
    assert!(found.head_bytes <= found.table.first_byte().unwrap_or(u64::MAX));
    assert!(found.head_bytes <= source.first_byte().unwrap_or(u64::MAX) || source.entries().is_empty());
    assert!(found.min_bytes <= found.target.bytes);
}

/// Where the mode gives space away, none is left that somebody could have taken.
fn assert_taken(needs: &[Need], wishes: &Wishes, found: &Arrangement) {
    let entry = |placed: &Placed| {
        found.table.entries().iter().find(|entry| entry.number == placed.becomes).unwrap().clone()
    };
    let need = |placed: &Placed| needs.iter().find(|need| need.number == placed.number);
    let grows = |placed: &&Placed| {
        let fixed = types::is_fixed(&entry(placed).type_id);
        need(placed).is_some_and(|need| need.can_grow && !need.fixed && !fixed)
    };
    let takes_more = |placed: &Placed| {
        let most = need(placed).and_then(|need| need.max_bytes).unwrap_or(u64::MAX);
        most.saturating_sub(placed.to.bytes) >= MIB
    };
    if found.volumes.iter().any(|placed| placed.to.bytes < placed.from.bytes) {
        return;
    }
    let end = Area::of(&found.table, found.target).end;
    let volumes = || found.volumes.iter();
    if wishes.mode == Mode::Grow {
        let Some((index, last)) = volumes().enumerate().rfind(|(_, placed)| grows(placed)) else { return };
        let next = found.volumes.get(index + 1).map_or(end, |next| entry(next).begin());
        let free = next - last.to.end();
        assert!(!takes_more(last) || free < MIB, "{last:?} could have taken {free}");
    }
    let grown = volumes().any(|placed| placed.to.bytes > placed.from.bytes + MIB);
    if wishes.mode == Mode::Proportional && grown && volumes().filter(grows).any(takes_more) {
        let free = end - found.volumes.last().map_or(end, |last| last.to.end());
        assert!(free < MIB, "{free} are left");
    }
}

fn check(case: &Case) {
    let source = case.table();
    let (needs, wishes) = (case.needs(&source), case.wishes(&source));
    let end = source.entries().iter().map(|entry| entry.extent.end()).max().unwrap();
    let sector = u64::from(case.sectors.1);
    let bytes = (end / 256 * case.target).next_multiple_of(sector);
    let target = Geometry { bytes, sector_bytes: case.sectors.1 };
    let min = match minimum(&source, &needs, target.sector_bytes, &wishes) {
        Ok(min) => min,
        Err(Unfit::BeyondMbr { .. }) => return,
        Err(other) => panic!("{other}"),
    };
    let at = |bytes| {
        let target = Geometry { bytes, ..target };
        arrange(&source, &needs, target, &wishes, &mut counter())
    };
    match at(bytes) {
        Ok(found) => {
            assert_eq!(found.min_bytes, min);
            assert_sound(&source, &needs, &wishes, &found);
            assert_taken(&needs, &wishes, &found);
            let device = written(&found.table, target);
            assert_eq!(said(&read(&device, target.sector_bytes)), said(&found.table));
        }
        Err(Unfit::TooSmall { needed, has }) => {
            assert_eq!((needed, has), (min, bytes));
            assert!(has < needed);
        }
        Err(other) => panic!("{other}"),
    }
    let found = at(min).unwrap();
    assert_sound(&source, &needs, &wishes, &found);
    let one_less = at(min - sector);
    assert!(matches!(one_less, Err(Unfit::TooSmall { needed, .. }) if needed == min), "{one_less:?}");
}

/// What is read back from a table that was written is what was written, for the source as well.
fn check_source(case: &Case) {
    let source = case.table();
    let end = source.entries().iter().map(|entry| entry.extent.end()).max().unwrap();
    let target = Geometry { bytes: end + MIB, sector_bytes: case.sectors.0 };
    assert_eq!(said(&read(&written(&source, target), target.sector_bytes)), said(&source));
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, max_shrink_iters: 5000, failure_persistence: None, ..ProptestConfig::default() }
}

/// 100,000 layouts in all, in two halves that run beside each other.
const EACH: u32 = 50_000;

proptest! {
    #![proptest_config(config(EACH))]

    #[test]
    fn arrangements_of_gpts_are_sound(case in case(true)) {
        check(&case);
    }

    #[test]
    fn arrangements_of_mbrs_are_sound(case in case(false)) {
        check(&case);
    }
}

proptest! {
    #![proptest_config(config(2000))]

    #[test]
    fn a_table_is_read_as_it_was_written(case in any::<bool>().prop_flat_map(case)) {
        check_source(&case);
    }

    #[test]
    fn damaged_tables_are_refused_or_sound(
        case in any::<bool>().prop_flat_map(case),
        damage in proptest::collection::vec((0..4096_usize, any::<u8>()), 1..4),
    ) {
        let source = case.table();
        let end = source.entries().iter().map(|entry| entry.extent.end()).max().unwrap();
        let target = Geometry { bytes: end + MIB, sector_bytes: case.sectors.0 };
        let mut device = written(&source, target);
        let mut head = vec![0; 4096 * 8];
        device.read_exact_at(0, &mut head).unwrap();
        for (at, byte) in damage {
            // Near the entries of the MBR, or anywhere in the head.
            let at = if at % 2 == 0 { ENTRIES + at % 66 } else { at * 8 };
            head[at] = byte;
        }
        device.put_bytes(0, head);
        if let Ok(table) = PartitionTable::read(&device, target.sector_bytes) {
            let wishes = case.wishes(&table);
            if let Ok(found) = arrange(&table, &[], target, &wishes, &mut counter()) {
                assert_sound(&table, &[], &wishes, &found);
                written(&found.table, target);
            }
        }
    }
}
