//! Identities in texts: what `fstab`, boot loaders' menus and kernels' command lines say of filesystems and partitions, and where
//! such texts are.
//!
//! Promise: an identity is replaced only where it stands as a whole, and a short one (`1234-ABCD`) only where the words before it
//! say that it is one; what is replaced is not looked at again. Knows nothing of how the files are reached: [`super::rewrite_tree`]
//! and [`super::rewrite_fat`] do.

/// From this length on, no other word looks the same by chance: a UUID has 36 characters, one of LVM 38.
const LONG: usize = 20;
/// Folders with more names are no folders of boot loader entries.
pub(super) const NAMES_MAX: usize = 4096;
/// Menus with a hundred kernels have some 100 KiB.
pub(super) const TEXT_BYTES_MAX: u64 = 4 << 20;

/// Texts that name filesystems, from the root folder of one: that of a system, of a `/boot` of its own, or of an EFI system
/// partition. A `*` stands for any part of one name.
pub(super) const FILES: [&str; 44] = [
    "etc/fstab",
    "etc/crypttab",
    "etc/default/grub",
    "etc/default/grub.d/*.cfg",
    "etc/grub.d/4*",
    "etc/kernel/cmdline",
    "etc/cmdline.d/*.conf",
    "etc/dracut.conf",
    "etc/dracut.conf.d/*.conf",
    "etc/initramfs-tools/conf.d/*",
    "etc/lilo.conf",
    "etc/systemd/system/*.mount",
    "etc/systemd/system/*.swap",
    "etc/lvm/devices/system.devices",
    // The system's own /boot; and its root, where that is a partition of its own.
    "boot/grub/grub.cfg",
    "boot/grub/custom.cfg",
    "boot/grub/grubenv",
    "boot/grub2/grub.cfg",
    "boot/grub2/custom.cfg",
    "boot/grub2/grubenv",
    "boot/loader/entries/*.conf",
    "boot/extlinux/extlinux.conf",
    "boot/syslinux/syslinux.cfg",
    "boot/refind_linux.conf",
    "boot/efi/EFI/*/grub.cfg",
    "boot/firmware/cmdline.txt",
    "boot/armbianEnv.txt",
    "grub/grub.cfg",
    "grub/custom.cfg",
    "grub/grubenv",
    "grub2/grub.cfg",
    "grub2/custom.cfg",
    "grub2/grubenv",
    "extlinux/extlinux.conf",
    "refind_linux.conf",
    "cmdline.txt",
    "armbianEnv.txt",
    "syslinux/syslinux.cfg",
    // An EFI system partition.
    "EFI/*/grub.cfg",
    "EFI/*/grubenv",
    "EFI/refind/refind.conf",
    "EFI/syslinux/*.cfg",
    "limine.conf",
    "loader/entries/*.conf",
];

/// What may name filesystems, but is packed or signed: it can only be made anew.
pub(super) const PACKED: [&str; 7] = [
    "boot/initrd*",
    "boot/initramfs*",
    "initrd*",
    "initramfs*",
    "EFI/Linux/*.efi",
    "boot/EFI/Linux/*.efi",
    "boot/efi/EFI/Linux/*.efi",
];

/// What was done to the texts of a filesystem; names count from its root folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    /// The files that were changed, and how many identities in each.
    pub rewritten: Vec<(String, u64)>,
    /// Files that may name old identities and could not be read for it: initramfs archives, signed kernels, texts without end. An
    /// initramfs waits some time for a swap area that it can't find, or for ever for a root (dracut): it is to be made anew.
    pub unread: Vec<String>,
}

/// The text with new identities for old ones, and how many; `None` when it has none. Pairs are as blkid spells them: letters may
/// be of either size in the text, and what was written in capitals stays in capitals, but for identities that differ by that (LVM's).
#[must_use]
pub fn rewrite(text: &[u8], pairs: &[(String, String)]) -> Option<(Vec<u8>, u64)> {
    let mut pairs: Vec<&(String, String)> =
        pairs.iter().filter(|(old, new)| old.len() >= 4 && old != new).collect();
    // The longest first: `1234abcd-01` is not `1234abcd` with something behind it.
    pairs.sort_by_key(|(old, _)| std::cmp::Reverse(old.len()));
    let (mut out, mut count) = (Vec::with_capacity(text.len()), 0_u64);
    let mut rest = text;
    while let Some(byte) = rest.first() {
        let before = text.get(..text.len().saturating_sub(rest.len())).unwrap_or_default();
        let found = pairs.iter().find(|(old, _)| stands(before, rest, old));
        if let Some((old, new)) = found {
            let (here, behind) = rest.split_at_checked(old.len())?;
            out.extend(in_the_same_letters(here, old, new));
            count = count.saturating_add(1);
            rest = behind;
        } else {
            out.push(*byte);
            rest = rest.get(1..).unwrap_or_default();
        }
    }
    (count > 0).then_some((out, count))
}

/// Whether this identity is what comes next, whole, and meant as such.
fn stands(before: &[u8], rest: &[u8], old: &str) -> bool {
    let Some((here, behind)) = rest.split_at_checked(old.len()) else { return false };
    let same = if is_hex(old) { here.eq_ignore_ascii_case(old.as_bytes()) } else { here == old.as_bytes() };
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric();
    let (left, right) = (before.last(), behind.first());
    let whole = !left.is_some_and(is_word) && !right.is_some_and(|byte| is_word(byte) || *byte == b'-');
    // GRUB's names for menu entries end with the identity: `gnulinux-simple-…`.
    same && whole && (old.len() >= LONG || (!matches!(left, Some(b'-' | b'_')) && is_named(before)))
}

/// Whether the words before a short identity say that one follows.
fn is_named(before: &[u8]) -> bool {
    let line = before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line).to_ascii_lowercase();
    let line = line.trim_end_matches(['"', '\'']);
    // `UUID=`, `PARTUUID=`, `set uuid=`; names of links; GRUB's search by filesystem.
    ["uuid=", "by-uuid/", "by-partuuid/"].iter().any(|end| line.ends_with(end))
        || (line.contains("search") && ["fs-uuid", "fs_uuid"].iter().any(|word| line.contains(word)))
}

fn is_hex(identity: &str) -> bool {
    identity.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

fn in_the_same_letters(here: &[u8], old: &str, new: &str) -> Vec<u8> {
    if here == old.as_bytes() {
        return new.as_bytes().to_vec();
    }
    if here.iter().any(u8::is_ascii_lowercase) { new.to_ascii_lowercase() } else { new.to_ascii_uppercase() }
        .into_bytes()
}

/// The names that a pattern of [`FILES`] has on a filesystem whose folders `list` lists.
pub(super) fn expand<E>(
    pattern: &str,
    list: &mut dyn FnMut(&str) -> Result<Vec<String>, E>,
) -> Result<Vec<String>, E> {
    let mut found = vec![String::new()];
    for part in pattern.split('/') {
        let mut next = Vec::new();
        for folder in found {
            let join =
                |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
            let Some((start, end)) = part.split_once('*') else {
                next.push(join(part));
                continue;
            };
            let mut names = list(&folder)?;
            names.retain(|name| fits(name, start, end));
            names.sort();
            next.extend(names.iter().map(|name| join(name)));
        }
        next.truncate(NAMES_MAX);
        found = next;
    }
    Ok(found)
}

fn fits(name: &str, start: &str, end: &str) -> bool {
    let bytes = name.as_bytes();
    let head = bytes.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start.as_bytes()));
    let rest = bytes.get(start.len()..).unwrap_or_default();
    let tail = rest.len().checked_sub(end.len()).and_then(|at| rest.get(at..));
    head && tail.is_some_and(|tail| tail.eq_ignore_ascii_case(end.as_bytes()))
}

#[cfg(test)]
#[path = "references_tests.rs"]
mod tests;
