//! The fallback loader of an EFI system partition: `\EFI\BOOT\BOOTX64.EFI`, the only one that firmware finds by itself. A disk
//! whose loader is known to the old machine's firmware alone, by an entry in its memory, does not start elsewhere.
//!
//! Promise: nothing that is there is changed; a copy is read back. Knows nothing of which system is the right one where there are
//! several: the first in the order of `LOADERS`, then by name.
//! Format: UEFI 2.10 §3.5.1.1; names of loaders as shim, GRUB and systemd install them.

use super::BootProblem;
use super::fat::{create, find, names, read, with};
use crate::WriteAt;

/// Firmware's name of a processor, and the loaders'.
const PROCESSORS: [(&str, &str); 3] = [("X64", "x64"), ("AA64", "aa64"), ("IA32", "ia32")];
/// In order of trust: a signed loader of a loader, with what it loads from its own folder; then those that need nobody. The last is
/// Windows', for one processor.
const LOADERS: [(&str, &[&str]); 5] = [
    ("EFI/*/shim{}.efi", &["grub{}.efi", "mm{}.efi"]),
    ("EFI/systemd/systemd-boot{}.efi", &[]),
    ("EFI/*/grub{}.efi", &[]),
    ("EFI/refind/refind_{}.efi", &[]),
    ("EFI/Microsoft/Boot/bootmgfw.efi", &[]),
];

/// What a system partition has for firmware that does not know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fallback {
    /// Fallback loaders that were there.
    pub present: Vec<String>,
    /// Files that were copied: from, to.
    pub made: Vec<(String, String)>,
}

/// Makes a fallback loader where there is none, and some other.
///
/// # Errors
/// The volume is no FAT that can be read, or there is a loader to be copied and it can't be written to.
pub fn add_fallback(esp: &dyn WriteAt) -> Result<Fallback, BootProblem> {
    let (mut fallback, mut files) = (Fallback::default(), Vec::new());
    with(esp, |root| {
        for (processor, suffix) in PROCESSORS {
            let to = format!("EFI/BOOT/BOOT{processor}.EFI");
            if find(root, &to)?.is_some() {
                fallback.present.push(to);
                continue;
            }
            for (from, to) in copies(root, suffix, to)? {
                let entry = find(root, &from)?;
                if let Some(entry) = entry.filter(|entry| entry.is_file()) {
                    files.push((to.clone(), read(&entry, &from)?));
                    fallback.made.push((from, to));
                }
            }
        }
        Ok(())
    })?;
    if !files.is_empty() {
        create(esp, &files)?;
    }
    Ok(fallback)
}

/// What is to be copied for one kind of processor, the loader first.
fn copies(
    root: &super::fat::Folder<'_, '_>,
    suffix: &str,
    to: String,
) -> Result<Vec<(String, String)>, BootProblem> {
    for (pattern, beside) in LOADERS {
        if !pattern.contains("{}") && suffix != "x64" {
            continue;
        }
        for loader in names(root, &pattern.replace("{}", suffix))? {
            if !find(root, &loader)?.is_some_and(|entry| entry.is_file()) {
                continue;
            }
            let folder = loader.rsplit_once('/').map_or("", |(folder, _)| folder);
            let mut copies = vec![(loader.clone(), to)];
            for name in beside.iter().map(|name| name.replace("{}", suffix)) {
                let (from, to) = (format!("{folder}/{name}"), format!("EFI/BOOT/{name}"));
                // What is there is somebody's.
                if find(root, &to)?.is_none() && find(root, &from)?.is_some() {
                    copies.push((from, to));
                }
            }
            return Ok(copies);
        }
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::fat::tests::{check, files, volume};
    use crate::boot::rewrite_fat;

    fn loader(name: &str) -> (String, Vec<u8>) {
        (name.to_owned(), name.bytes().cycle().take(300_000).collect())
    }

    #[test]
    fn a_disk_with_a_fallback_is_left_alone() {
        let esp = volume("32", 64, &[loader("EFI/BOOT/BOOTX64.EFI"), loader("EFI/debian/grubx64.efi")]);
        let before = esp.to_vec();
        let found = add_fallback(&esp).unwrap();
        assert_eq!((found.present.len(), found.made), (1, Vec::new()));
        assert!(esp.to_vec() == before, "not a byte");
    }

    #[test]
    fn shim_takes_what_it_loads_along() {
        let all = [
            "EFI/debian/shimx64.efi",
            "EFI/debian/grubx64.efi",
            "EFI/debian/mmx64.efi",
            "EFI/Microsoft/Boot/bootmgfw.efi",
        ];
        let esp = volume("32", 64, &all.map(loader));
        let found = add_fallback(&esp).unwrap();
        let to: Vec<&str> = found.made.iter().map(|(_, to)| to.as_str()).collect();
        assert_eq!(to, ["EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/grubx64.efi", "EFI/BOOT/mmx64.efi"]);
        check(&esp);
        let there = files(&esp, "EFI/BOOT");
        for (from, to) in found.made {
            let name = to.rsplit('/').next().unwrap();
            assert_eq!(there[&name.to_ascii_lowercase()], loader(&from).1, "{to}");
        }
        assert_eq!(add_fallback(&esp).unwrap().made, [], "once is enough");
    }

    #[test]
    fn each_loader_alone() {
        for name in [
            "EFI/fedora/GRUBX64.EFI",
            "EFI/systemd/systemd-bootx64.efi",
            "EFI/refind/refind_x64.efi",
            "EFI/Microsoft/Boot/bootmgfw.efi",
            "EFI/debian/grubaa64.efi",
        ] {
            let esp = volume("16", 32, &[loader(name)]);
            let made = add_fallback(&esp).unwrap().made;
            assert_eq!((made.len(), made[0].0.to_ascii_lowercase()), (1, name.to_ascii_lowercase()));
            check(&esp);
        }
        let empty = volume("32", 64, &[]);
        assert_eq!(add_fallback(&empty).unwrap(), Fallback::default());
    }

    #[test]
    fn what_does_not_fit_leaves_nothing_behind() {
        let large = |name: &str| (name.to_owned(), vec![7; 18 << 20]);
        let esp = volume("16", 32, &[large("EFI/debian/grubx64.efi")]);
        assert!(matches!(add_fallback(&esp), Err(BootProblem::Fat { .. })));
        check(&esp);
        assert!(!files(&esp, "EFI/BOOT").contains_key("bootx64.efi"));
    }

    #[test]
    fn its_texts_are_rewritten() {
        let (old, new) = ("0f3a9c1e-7d42-4b5e-9a10-2233445566aa", "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee");
        let text = |uuid: &str| format!("search.fs_uuid {uuid} root\nset prefix=($root)'/boot/grub'\n");
        let menu = ("EFI/debian/grub.cfg".to_owned(), text(old).into_bytes());
        let kernel = ("EFI/Linux/system.efi".to_owned(), vec![1; 5000]);
        let esp = volume("32", 64, &[menu, kernel, loader("EFI/debian/grubx64.efi")]);
        let texts = rewrite_fat(&esp, &[(old.to_owned(), new.to_owned())]).unwrap();
        assert_eq!(texts.rewritten, [("EFI/debian/grub.cfg".to_owned(), 1)]);
        assert_eq!(texts.unread, ["EFI/Linux/system.efi"]);
        check(&esp);
        assert_eq!(files(&esp, "EFI/debian")["grub.cfg"], text(new).into_bytes());
    }
}
