//! By example: what people have, and what they get.

use super::*;

const GIB: u64 = 1 << 30;

/// ESP, Windows or Linux, and the recovery partition that blocks other tools.
fn laptop() -> (PartitionTable, [Need; 1]) {
    let (esp, data, recovery) = (100 * MIB, 15 * GIB, 600 * MIB);
    let parts = [(ESP, MIB, esp), (LINUX, MIB + esp, data), (RECOVERY, MIB + esp + data, recovery)];
    (gpt_of(512, &parts), [elastic(2, 4 * GIB)])
}

fn arranged(
    table: &PartitionTable,
    needs: &[Need],
    bytes: u64,
    wishes: &Wishes,
) -> Result<Arrangement, Unfit> {
    arrange(table, needs, geometry(bytes), wishes, &mut counter())
}

fn places(found: &Arrangement) -> Vec<(u64, u64)> {
    found.volumes.iter().map(|placed| (placed.to.offset, placed.to.bytes)).collect()
}

/// One word each, for short comparisons.
fn mib(found: &Arrangement) -> Vec<(u64, u64)> {
    places(found).into_iter().map(|(offset, bytes)| (offset / MIB, bytes / MIB)).collect()
}

#[test]
fn a_recovery_partition_does_not_block_a_smaller_disk() {
    let (table, needs) = laptop();
    let found = arranged(&table, &needs, 8 * GIB, &wish(Mode::Fit)).unwrap();
    assert_eq!(mib(&found), [(1, 100), (101, 7490), (7591, 600)]);
    assert_eq!(found.min_bytes, (1 + 100 + 4096 + 600) * MIB + 33 * 512);
    assert_eq!(found.head_bytes, MIB);
    assert!(matches!(
        arranged(&table, &needs, 8 * GIB, &wish(Mode::Keep)),
        Err(Unfit::TooSmall { needed, has }) if needed == (1 + 100 + 15360 + 600) * MIB + 33 * 512 && has == 8 * GIB
    ));
    let fits = minimum(&table, &needs, 512, &wish(Mode::Fit)).unwrap();
    assert_eq!(fits, found.min_bytes);
    let tight = arranged(&table, &needs, 4 * GIB, &wish(Mode::Grow)).unwrap_err();
    assert_eq!(tight.to_string(), format!("the target has {} bytes, the partitions need {fits}", 4 * GIB));
}

#[test]
fn the_last_that_can_grow_takes_the_space_and_the_rest_moves_to_the_end() {
    let (table, needs) = laptop();
    let found = arranged(&table, &needs, 64 * GIB, &wish(Mode::Grow)).unwrap();
    // The backup GPT takes the last 33 sectors, so the last border before it is one MiB from the end.
    assert_eq!(mib(&found), [(1, 100), (101, 65535 - 600 - 101), (65535 - 600, 600)]);
    assert_eq!(found.notes, []);
    let capped = Need { max_bytes: Some(20 * GIB), ..needs[0] };
    let found = arranged(&table, &[capped], 64 * GIB, &wish(Mode::Grow)).unwrap();
    assert_eq!(mib(&found), [(1, 100), (101, 20480), (20581, 600)]);
    let found = arranged(&table, &[], 64 * GIB, &wish(Mode::Grow)).unwrap();
    assert_eq!(found.notes, [Remark::NothingGrows]);
    assert!(found.volumes.iter().all(|placed| placed.from == placed.to));
}

#[test]
fn space_is_shared_by_size() {
    let parts = [(ESP, MIB, 99 * MIB), (LINUX, 100 * MIB, 100 * MIB), (LINUX, 200 * MIB, 300 * MIB)];
    let table = gpt_of(512, &parts);
    let needs = [elastic(1, 0), elastic(2, 0), elastic(3, 0)];
    let found = arranged(&table, &needs, 901 * MIB, &wish(Mode::Proportional)).unwrap();
    assert_eq!(mib(&found), [(1, 99), (100, 200), (300, 600)]);
    let capped = [elastic(2, 0), Need { max_bytes: Some(310 * MIB), ..elastic(3, 0) }];
    let found = arranged(&table, &capped, 901 * MIB, &wish(Mode::Proportional)).unwrap();
    assert_eq!(mib(&found), [(1, 99), (100, 490), (590, 310)]);
}

#[test]
fn those_with_most_to_spare_shrink_alike_and_are_left_some_slack() {
    let parts = [(LINUX, MIB, 1000 * MIB), (LINUX, 1001 * MIB, 3000 * MIB), (LINUX, 4001 * MIB, 500 * MIB)];
    let table = gpt_of(512, &parts);
    let needs = [elastic(1, 100 * MIB), elastic(2, 1000 * MIB), elastic(3, 100 * MIB)];
    let sizes = |bytes: u64| -> Vec<u64> {
        let found = arranged(&table, &needs, bytes, &wish(Mode::Fit)).unwrap();
        found.volumes.iter().map(|placed| placed.to.bytes / MIB).collect()
    };
    assert_eq!(sizes(4600 * MIB), [1000, 3000, 500]);
    assert_eq!(sizes(4002 * MIB), [1000, 2500, 500]);
    assert_eq!(sizes(2502 * MIB), [527, 1472, 500]);
    assert_eq!(sizes(1252 * MIB), [105, 1040, 105]);
    assert_eq!(sizes(1202 * MIB), [100, 1000, 100]);
}

#[test]
fn an_mbr_does_not_reach_behind_2_tib() {
    let table = mbr_of(512, &[(1, 0x83, MIB, 100 * GIB, 0)]);
    let wishes = wish(Mode::Grow);
    let found = arranged(&table, &[elastic(1, 0)], 4096 * GIB, &wishes).unwrap();
    assert_eq!(found.volumes[0].to.end(), 2048 * GIB);
    assert_eq!(found.notes, [Remark::OutOfReach { bytes: 2048 * GIB }]);
    written(&found.table, found.target);
    let found = arranged(&table, &[elastic(1, 0)], 4096 * GIB, &Wishes { to_gpt: true, ..wishes }).unwrap();
    assert_eq!(found.volumes[0].to.end(), 4096 * GIB - MIB);
    assert_eq!((found.notes, found.head_bytes), (vec![Remark::GapLeft], 0));
    let large = mbr_of(4096, &[(1, 0x83, MIB, 3000 * GIB, 0)]);
    let beyond = arranged(&large, &[], 4096 * GIB, &wish(Mode::Keep)).unwrap_err();
    assert!(matches!(beyond, Unfit::BeyondMbr { .. }), "{beyond}");
    assert!(beyond.to_string().contains("--to-gpt"));
}

#[test]
fn an_mbr_becomes_a_gpt() {
    let rows =
        [(1, 0x0c, MIB, 10 * MIB, 0), (2, 0x07, 11 * MIB, 10 * MIB, 0), (5, 0x82, 22 * MIB, 10 * MIB, MIB)];
    let table = mbr_of(512, &rows);
    let found = arranged(&table, &[], 64 * MIB, &Wishes { to_gpt: true, ..Wishes::default() }).unwrap();
    let said: Vec<(u32, &str)> =
        found.table.entries().iter().map(|entry| (entry.number, entry.type_id.as_str())).collect();
    let basic = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7";
    assert_eq!(said, [(1, basic), (2, basic), (5, "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f")]);
    assert_eq!(mib(&found), [(1, 10), (11, 10), (22, 10)]);
    let old: Vec<&str> = found.ids.iter().map(|(old, _)| old.as_str()).collect();
    assert_eq!(old, ["12345678", "12345678-01", "12345678-02", "12345678-05"]);
    let odd = mbr_of(512, &[(1, 0xa5, MIB, MIB, 0)]);
    let refused = arranged(&odd, &[], 64 * MIB, &Wishes { to_gpt: true, ..Wishes::default() }).unwrap_err();
    assert_eq!(refused.to_string(), "partition 1: type 0xa5 has no counterpart in a gpt");
}

#[test]
fn some_partitions_only() {
    let (table, needs) = laptop();
    let only = |numbers: &[u32]| Wishes { only: Some(numbers.to_vec()), ..Wishes::default() };
    let found = arranged(&table, &needs, 20 * GIB, &only(&[1, 3])).unwrap();
    assert_eq!(found.volumes.iter().map(|placed| placed.number).collect::<Vec<_>>(), [1, 3]);
    assert!(found.volumes.iter().all(|placed| placed.from == placed.to));
    assert_eq!(said(&read(&written(&found.table, found.target), 512)), said(&found.table));
    let none = arranged(&table, &needs, 20 * GIB, &only(&[1, 4])).unwrap_err();
    assert_eq!(none.to_string(), "partition 4: there is none of this number");
    let rows = [(1, 0x83, MIB, MIB, 0), (5, 0x83, 4 * MIB, MIB, MIB), (6, 0x83, 6 * MIB, MIB, MIB)];
    let found = arranged(&mbr_of(512, &rows), &[], 20 * MIB, &only(&[6])).unwrap();
    assert_eq!((found.volumes[0].number, found.volumes[0].becomes), (6, 5));
    assert_eq!(found.notes, [Remark::Renumbered { from: 6, to: 5 }]);
    assert_eq!(found.ids, [("12345678-06".to_owned(), "12345678-05".to_owned())]);
    let found = arranged(&mbr_of(512, &rows), &[], 20 * MIB, &only(&[1])).unwrap();
    assert_eq!(found.notes, [Remark::EmptyExtended]);
    assert_eq!(said(&read(&written(&found.table, found.target), 512)), said(&found.table));
}

#[test]
fn one_partition_onto_a_disk_without_a_table() {
    let (table, needs) = laptop();
    let mut wishes = Wishes { only: Some(vec![2]), create: true, ..Wishes::default() };
    let found = arranged(&table, &needs, 20 * GIB, &wishes).unwrap();
    assert_eq!((found.volumes[0].number, found.volumes[0].becomes, found.head_bytes), (2, 1, 0));
    assert_eq!(mib(&found), [(1, 15360)]);
    assert_eq!(found.table.entries()[0].type_id, LINUX);
    assert_ne!(found.table.entries()[0].uuid, table.entries()[1].uuid);
    wishes.mode = Mode::Grow;
    let found = arranged(&table, &needs, 20 * GIB, &wishes).unwrap();
    assert_eq!(mib(&found), [(1, 20478)]);
    let rows = [(5, 0x07, 100 * MIB, 7 * MIB, MIB)];
    let found = arranged(&mbr_of(512, &rows), &[], 20 * MIB, &Wishes { create: true, ..Wishes::default() });
    let found = found.unwrap();
    assert_eq!(mib(&found), [(1, 7)]);
    assert_eq!(said(&read(&written(&found.table, found.target), 512)), said(&found.table));
}

#[test]
fn contents_bound_to_their_sector_size_do_not_move_to_another() {
    let (table, _) = laptop();
    let bound = [Need { number: 1, sector_bytes: Some(512), ..Need::default() }];
    let target = Geometry { bytes: 20 * GIB, sector_bytes: 4096 };
    let refused = arrange(&table, &bound, target, &wish(Mode::Keep), &mut counter()).unwrap_err();
    assert!(matches!(refused, Unfit::SectorBound { number: 1, bound: 512, target: 4096 }));
    let wishes = Wishes { only: Some(vec![2, 3]), ..Wishes::default() };
    arrange(&table, &bound, target, &wishes, &mut counter()).unwrap();
    let odd = Geometry { sector_bytes: 520, ..target };
    assert!(matches!(arrange(&table, &[], odd, &wishes, &mut counter()), Err(Unfit::SectorSize { .. })));
}

#[test]
fn a_file_has_its_way() {
    let (table, needs) = laptop();
    let explicit = |text: &str, bytes: u64| {
        let wishes = wish(Mode::Explicit(LayoutFile::parse(text).unwrap()));
        arranged(&table, &needs, bytes, &wishes)
    };
    assert_eq!(mib(&explicit("", 16 * GIB).unwrap()), [(1, 100), (101, 15360), (15461, 600)]);
    let text = "1 : size=+28M\n2 : size=+\n3 : size=1G\n";
    let found = explicit(text, 32 * GIB).unwrap();
    assert_eq!(mib(&found), [(1, 128), (129, 32767 - 1024 - 129), (32767 - 1024, 1024)]);
    assert_eq!(found.notes, [1, 3].map(|number| Remark::ContentStays { number }));
    assert_eq!(found.min_bytes, (129 + 4096 + 1024) * MIB + 33 * 512);
    let found = explicit("2 : start=500M, size=+\n3 : start=10G", 32 * GIB).unwrap();
    assert_eq!(mib(&found), [(1, 100), (500, 9740), (10240, 600)]);
    let found = explicit("2 : start=1024001, size=9000001", 8 * GIB).unwrap();
    assert_eq!(places(&found)[1], (1_024_001 * 512, 9_000_001 * 512));
    let says = |text: &str| explicit(text, 16 * GIB).unwrap_err().to_string();
    assert_eq!(says("4 : size=5"), "partition 4: there is none of this number");
    let small = format!("partition 2: its content needs {} bytes, the layout file gives it 2560", 4 * GIB);
    assert_eq!(says("2 : size=5"), small);
    let early =
        format!("partition 3: expected a start of byte {} or later, the layout file says 512", 15461 * MIB);
    assert_eq!(says("3 : start=1"), early);
    assert_eq!(
        says("3 : start=16380M"),
        format!("the target has {} bytes, the partitions need {}", 16 * GIB, 16980 * MIB + 33 * 512)
    );
}

#[test]
fn new_identities() {
    let (mut table, _) = laptop();
    let before = table.clone();
    let mut random = counter();
    for _ in 0..10 {
        random(); // `counter` made the table's own
    }
    let pairs = table.new_ids(&mut random);
    assert_eq!(pairs.len(), 4);
    assert_eq!(Some(&pairs[0].0), before.disk_id().as_ref());
    for (entry, (old, new)) in before.entries().iter().zip(&pairs[1..]) {
        assert!(entry.uuid == *old && old != new);
    }
    assert_eq!(said(&read(&written(&table, geometry(16 * GIB)), 512)), said(&table));
    let mut table = mbr_of(512, &[(1, 0x83, MIB, MIB, 0), (5, 0x83, 4 * MIB, MIB, MIB)]);
    let pairs = table.new_ids(&mut || [0; 16]);
    let expected = [("12345678", "00000001"), ("12345678-01", "00000001-01"), ("12345678-05", "00000001-05")];
    assert_eq!(pairs, expected.map(|(old, new)| (old.to_owned(), new.to_owned())));
}

#[test]
fn tables_that_cannot_be_written_anew_are_refused() {
    let refused = |device: &dyn ReadAt| match PartitionTable::read(device, 512) {
        Err(Unfit::Odd { oddity }) => oddity,
        other => panic!("{other:?}"),
    };
    let overlapping = mbr_of(512, &[(1, 0x83, MIB, 2 * MIB, 0), (2, 0x83, 2 * MIB, MIB, 0)]);
    let mut device = Assembled::new(8 * MIB, 512);
    for (offset, bytes) in overlapping.encode(geometry(8 * MIB)).unwrap() {
        device.put_bytes(offset, bytes);
    }
    assert_eq!(refused(&device), "volumes 1 and 2 overlap");
    let mut hybrid = written(&gpt_of(512, &[(LINUX, MIB, MIB)]), geometry(8 * MIB));
    hybrid.put_bytes(446 + 16 + 4, vec![0x83, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
    assert!(refused(&hybrid).starts_with("hybrid"));
    let mut damaged = written(&gpt_of(512, &[(LINUX, MIB, MIB)]), geometry(8 * MIB));
    damaged.put_bytes(512, vec![0; 512]);
    read(&damaged, 512); // the backup is there
    damaged.put_bytes(8 * MIB - 512, vec![0; 512]);
    assert_eq!(refused(&damaged), "protective mbr, but neither gpt is intact");
    let chain = mbr_of(512, &[(5, 0x83, 4 * MIB, MIB, MIB)]);
    let mut broken = written(&chain, geometry(8 * MIB));
    broken.put_bytes(3 * MIB + 446 + 16 + 4, vec![5, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0]);
    assert!(refused(&broken).contains("circle"));
    let none = read(&Assembled::new(8 * MIB, 512), 512);
    assert_eq!(none.kind, TableKind::None);
    assert!(matches!(arranged(&none, &[], 8 * MIB, &Wishes::default()), Err(Unfit::NoTable)));
    assert_eq!(read(&Assembled::new(0, 512), 512).kind, TableKind::None);
}

#[test]
fn modes_have_names() {
    assert_eq!("proportional".parse(), Ok(Mode::Proportional));
    let unknown = "larger".parse::<Mode>().unwrap_err();
    assert_eq!(unknown.to_string(), "expected keep, grow, proportional or fit, found \"larger\"");
}
