//! Texts as distributions write them.

use super::*;
use proptest::prelude::*;

const OLD: &str = "0f3a9c1e-7d42-4b5e-9a10-2233445566aa";
const NEW: &str = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";

fn pairs() -> Vec<(String, String)> {
    [
        (OLD, NEW),
        ("1234-ABCD", "9876-FEDC"),
        ("01D0ABCD12345678", "0123456789ABCDEF"),
        ("deadbeef-02", "cafe0001-02"),
        ("deadbeef", "cafe0001"),
        ("abcDEF-1234-aBcD-5678-EfGh-9012-ijklmn", "nmlkji-1234-aBcD-5678-EfGh-9012-abcDEF"),
    ]
    .map(|(old, new)| (old.to_owned(), new.to_owned()))
    .to_vec()
}

#[track_caller]
fn becomes(text: &str, expected: &str, count: u64) {
    let (found, times) = rewrite(text.as_bytes(), &pairs()).unwrap();
    assert_eq!((String::from_utf8(found).unwrap().as_str(), times), (expected, count));
}

#[test]
fn a_debian_system() {
    becomes(
        &format!(
            "# / was on /dev/sda2\nUUID={OLD} / ext4 errors=remount-ro 0 1\nUUID=1234-ABCD  /boot/efi vfat umask=0077 0 1\n"
        ),
        &format!(
            "# / was on /dev/sda2\nUUID={NEW} / ext4 errors=remount-ro 0 1\nUUID=9876-FEDC  /boot/efi vfat umask=0077 0 1\n"
        ),
        2,
    );
    becomes(
        &format!(
            "menuentry 'x' $menuentry_id_option 'gnulinux-simple-{OLD}' {{\n search --no-floppy --fs-uuid --set=root --hint-bios=hd0,gpt2 {OLD}\n linux /vmlinuz root=UUID={OLD} ro\n}}"
        ),
        &format!(
            "menuentry 'x' $menuentry_id_option 'gnulinux-simple-{NEW}' {{\n search --no-floppy --fs-uuid --set=root --hint-bios=hd0,gpt2 {NEW}\n linux /vmlinuz root=UUID={NEW} ro\n}}"
        ),
        3,
    );
    becomes(
        "search.fs_uuid 1234-abcd root hd0,gpt1\n\tsearch --fs-uuid --set=root 01D0ABCD12345678\n",
        "search.fs_uuid 9876-fedc root hd0,gpt1\n\tsearch --fs-uuid --set=root 0123456789ABCDEF\n",
        2,
    );
}

#[test]
fn partitions_and_links() {
    becomes("root=PARTUUID=deadbeef-02 rw", "root=PARTUUID=cafe0001-02 rw", 1);
    becomes("root=\"PARTUUID=DEADBEEF-02\"", "root=\"PARTUUID=CAFE0001-02\"", 1);
    becomes("PTUUID=deadbeef", "PTUUID=cafe0001", 1);
    becomes("/dev/disk/by-uuid/1234-ABCD /x", "/dev/disk/by-uuid/9876-FEDC /x", 1);
    becomes(
        &format!("RESUME=UUID={}", OLD.to_uppercase()),
        &format!("RESUME=UUID={}", NEW.to_uppercase()),
        1,
    );
    becomes(
        "lvmid/abcDEF-1234-aBcD-5678-EfGh-9012-ijklmn/x",
        "lvmid/nmlkji-1234-aBcD-5678-EfGh-9012-abcDEF/x",
        1,
    );
}

#[test]
fn what_only_looks_like_one_stays() {
    for text in [
        "call 1234-ABCD now",
        "UUID=1234-ABCDE",
        "UUID=01234-ABCD",
        "UUID=1234-ABCD-1",
        "menu deadbeef",
        "PARTUUID=deadbeef-03",
        "x0f3a9c1e-7d42-4b5e-9a10-2233445566aa",
        "0f3a9c1e-7d42-4b5e-9a10-2233445566aab",
        // LVM's differ by the size of letters.
        "ABCDEF-1234-aBcD-5678-EfGh-9012-ijklmn",
        "",
    ] {
        assert_eq!(rewrite(text.as_bytes(), &pairs()), None, "{text}");
    }
}

#[test]
fn patterns_are_names() {
    let mut list = |folder: &str| -> Result<Vec<String>, ()> {
        Ok(match folder {
            "EFI" => vec!["debian".to_owned(), "BOOT".to_owned()],
            "loader/entries" => vec!["b.conf".to_owned(), "a.CONF".to_owned(), "conf".to_owned()],
            _ => Vec::new(),
        })
    };
    assert_eq!(
        expand("EFI/*/grub.cfg", &mut list),
        Ok(vec!["EFI/BOOT/grub.cfg".to_owned(), "EFI/debian/grub.cfg".to_owned()])
    );
    assert_eq!(
        expand("loader/entries/*.conf", &mut list),
        Ok(vec!["loader/entries/a.CONF".to_owned(), "loader/entries/b.conf".to_owned()])
    );
    assert_eq!(expand("etc/fstab", &mut list), Ok(vec!["etc/fstab".to_owned()]));
    assert_eq!(expand("boot/initrd*", &mut list), Ok(Vec::new()));
}

proptest! {
    /// What is put between words comes out with every old one replaced and nothing else changed.
    #[test]
    fn any_bytes_around(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6)) {
        let mut text = Vec::new();
        let mut expected = Vec::new();
        for part in &parts {
            text.extend([&part[..], b" UUID=", OLD.as_bytes(), b" "].concat());
            expected.extend([&part[..], b" UUID=", NEW.as_bytes(), b" "].concat());
        }
        let (found, count) = rewrite(&text, &pairs()).unwrap();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(count, parts.len() as u64);
    }
}
