//! Volumes made by mkfs.vfat and mtools, judged by fsck.vfat, damaged at random.

use super::*;
use crate::MemoryDevice;
use crate::boot::efi::add_fallback;
use crate::testing::{image, run};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A volume with these files.
pub(in crate::boot) fn volume(bits: &str, mib: u64, files: &[(String, Vec<u8>)]) -> MemoryDevice {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), "volume", mib << 20);
    run("mkfs.vfat", "dosfstools", &["-F", bits, text(&path)], "");
    for (name, bytes) in files {
        let file = folder.path().join("tree").join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }
    if !files.is_empty() {
        let tree = folder.path().join("tree");
        for entry in std::fs::read_dir(tree).unwrap() {
            run("mcopy", "mtools", &["-s", "-i", text(&path), text(&entry.unwrap().path()), "::/"], "");
        }
    }
    MemoryDevice::new(std::fs::read(path).unwrap())
}

/// Its own checker finds nothing to say.
pub(in crate::boot) fn check(volume: &MemoryDevice) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume");
    std::fs::write(&path, volume.to_vec()).unwrap();
    run("fsck.vfat", "dosfstools", &["-n", text(&path)], "");
}

/// The plain files of a folder as mtools sees them, by their names in small letters.
pub(in crate::boot) fn files(volume: &MemoryDevice, name: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let (path, to) = (folder.path().join("volume"), folder.path().join("to"));
    std::fs::write(&path, volume.to_vec()).unwrap();
    std::fs::create_dir(&to).unwrap();
    run("mcopy", "mtools", &["-s", "-n", "-i", text(&path), &format!("::/{name}"), text(&to)], "");
    let inner = to.join(name.rsplit('/').next().unwrap());
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_ascii_lowercase(), std::fs::read(path).unwrap())
    };
    std::fs::read_dir(inner).unwrap().map(read).collect()
}

fn small() -> Vec<u8> {
    static SMALL: OnceLock<Vec<u8>> = OnceLock::new();
    let make = || {
        let files = [
            ("EFI/debian/grubx64.efi".to_owned(), vec![5; 9000]),
            ("EFI/debian/grub.cfg".to_owned(), b"UUID=1234-ABCD\n".to_vec()),
        ];
        volume("12", 1, &files).to_vec()
    };
    SMALL.get_or_init(make).clone()
}

fn pairs() -> Vec<(String, String)> {
    vec![("1234-ABCD".to_owned(), "9876-FEDC".to_owned())]
}

#[test]
fn the_image_of_a_running_system_is_written_to() {
    for (bits, state, mib) in [("16", 37, 32), ("32", 65, 64)] {
        let named = ("EFI/debian/grub.cfg".to_owned(), b"UUID=1234-ABCD\n".to_vec());
        let esp = volume(bits, mib, &[named]);
        esp.write_all_at(state, &[1]).unwrap();
        assert_eq!(rewrite_fat(&esp, &pairs()).unwrap().rewritten.len(), 1);
        assert_eq!(files(&esp, "EFI/debian")["grub.cfg"], b"UUID=9876-FEDC\n");
        assert_eq!(esp.to_vec()[usize::try_from(state).unwrap()] & 1, 1, "its mark stays");
    }
}

#[test]
fn a_volume_in_doubt_is_not_written_to() {
    let mut bytes = small();
    // The second copy of the table says otherwise.
    let at = (1 + usize::from(bytes[22])) * 512 + 300;
    bytes[at] ^= 0xff;
    let esp = MemoryDevice::new(bytes.clone());
    assert!(matches!(rewrite_fat(&esp, &pairs()), Err(BootProblem::Doubtful { .. })));
    assert!(matches!(add_fallback(&esp), Err(BootProblem::Doubtful { .. })));
    assert!(esp.to_vec() == bytes);
}

#[test]
fn dates_are_those_of_the_calendar() {
    let of = |seconds| {
        let DateTime { date, time } = dated(seconds);
        (date.year, date.month, date.day, time.hour, time.min, time.sec)
    };
    assert_eq!(of(0), (1980, 1, 1, 0, 0, 0));
    assert_eq!(of(951_827_696), (2000, 2, 29, 12, 34, 56));
    assert_eq!(of(1_793_000_000), (2026, 10, 26, 7, 33, 20));
    assert_eq!(of(4_107_542_400), (2100, 3, 1, 0, 0, 0));
    assert_eq!(of(u64::MAX).0, 2107);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Any bytes in the boot sector, the tables and the folders: an error or an answer, soon.
    #[test]
    fn damage_is_borne(damage in prop::collection::vec((0_usize..40_000, any::<u8>()), 1..12), head in any::<bool>()) {
        let mut bytes = small();
        for (at, byte) in damage {
            let at = if head { at % 512 } else { at };
            bytes[at] = byte;
        }
        let esp = MemoryDevice::new(bytes);
        let _ignored = add_fallback(&esp).is_ok();
        let _ignored = rewrite_fat(&esp, &pairs()).is_ok();
    }

    #[test]
    fn noise_is_no_volume(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
        prop_assert!(add_fallback(&MemoryDevice::new(bytes)).is_err());
    }
}
