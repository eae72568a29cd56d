//! What a system that starts is made of: a kernel, an initramfs, a small root, GRUB for both kinds of firmware.
//!
//! Promise: all of it comes from Debian's packages and from this folder; nothing on it names a disk but by the identities that
//! the caller gives, in the places where a distribution has them. Knows nothing of partitions.

use crate::disks::noise;
use crate::{run, sh};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What the system says when it is up; `system.sh` has it too.
pub const MARKER: &str = "CAS-BOOT-OK";
/// What it says when something is wrong.
pub const COMPLAINT: &str = "CAS-BOOT-BAD";
/// What to do about a missing part.
pub const SETUP: &str = "`sh tests/setup.sh` installs it";
/// Disks of virtual machines, and filesystems that Debian's kernel does not have built in. The checksum comes first: modules
/// ask for it by a name that only modprobe understands.
const MODULES: [&str; 9] = [
    "crc32c_generic",
    "virtio_pci",
    "virtio_blk",
    "btrfs",
    "xfs",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "nls_iso8859-1",
];
/// What core.img itself needs to find its folder; everything else it loads from there.
const CORE: [&str; 6] = ["biosdisk", "part_gpt", "part_msdos", "ext2", "btrfs", "xfs"];
/// What a signed grubx64.efi has inside, as far as it is needed here: it loads no modules.
const EFI: [&str; 14] = [
    "part_gpt",
    "part_msdos",
    "fat",
    "ext2",
    "btrfs",
    "xfs",
    "search",
    "search_fs_uuid",
    "configfile",
    "normal",
    "linux",
    "serial",
    "terminal",
    "echo",
];
/// How much noise lies on the root.
const NOISE_FILES: u64 = 12;
const NOISE_BYTES: usize = 1 << 20;

/// The identities that a system's own files name, as `UUID=` spells them.
#[derive(Clone, Debug)]
pub struct Names {
    /// The root filesystem.
    pub root: String,
    /// The EFI system partition's filesystem, where there is one.
    pub esp: Option<String>,
    /// The swap area.
    pub swap: String,
}

/// The files of a root filesystem that starts: busybox, an init, kernel, initramfs, GRUB's folder, a fstab.
pub fn root_tree(folder: &Path, kind: &str, names: &Names) {
    for name in ["bin", "sbin", "dev", "proc", "sys", "etc", "boot/grub/i386-pc", "boot/efi", "srv", "root"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    busybox(&folder.join("bin"));
    sh(&format!("'{0}/bin/busybox' --install -s '{0}/bin'", folder.display()));
    // It made links to where it stands now.
    sh(&format!(
        "cd '{}/bin'; for name in *; do [ $name = busybox ] || ln -sf busybox $name; done",
        folder.display()
    ));
    program(&folder.join("sbin/init"), include_str!("system.sh"));
    fs::copy(kernel().join("vmlinuz"), folder.join("boot/vmlinuz")).unwrap();
    initramfs(&folder.join("boot/initrd.img"));
    sh(&format!(
        "cp /usr/lib/grub/i386-pc/*.mod /usr/lib/grub/i386-pc/*.lst '{}/boot/grub/i386-pc'",
        folder.display()
    ));
    fs::write(folder.join("boot/grub/grub.cfg"), menu(names)).unwrap();
    fs::write(folder.join("etc/fstab"), fstab(kind, names)).unwrap();
    for part in 0..NOISE_FILES {
        fs::write(folder.join(format!("srv/noise-{part}")), noise(1000 + part, NOISE_BYTES)).unwrap();
    }
    sh(&format!("cd '{}/srv' && md5sum noise-* >sums", folder.display()));
}

/// The files of an EFI system partition: the fallback loader if `fallback`, and the distribution's own with its text that says
/// where the root is.
pub fn esp_tree(folder: &Path, names: &Names, fallback: bool) {
    let own = folder.join("EFI/debian");
    fs::create_dir_all(&own).unwrap();
    let loader = own.join("grubx64.efi");
    let mut words = vec!["-O", "x86_64-efi", "-p", "/EFI/debian", "-o", loader.to_str().unwrap()];
    words.extend(EFI);
    run("grub-mkimage", &words);
    let text = format!(
        "search.fs_uuid {} root \nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n",
        names.root
    );
    fs::write(own.join("grub.cfg"), text).unwrap();
    if fallback {
        fs::create_dir_all(folder.join("EFI/BOOT")).unwrap();
        fs::copy(&loader, folder.join("EFI/BOOT/BOOTX64.EFI")).unwrap();
    }
}

/// GRUB's core image for BIOS, whose folder is on this partition of the disk it was started from: `gpt2`, `msdos1`.
pub fn core_image(folder: &Path, partition: &str) -> Vec<u8> {
    let file = folder.join("core.img");
    let prefix = format!("(,{partition})/boot/grub");
    let mut words = vec!["-O", "i386-pc", "-p", prefix.as_str(), "-o", file.to_str().unwrap()];
    words.extend(CORE);
    run("grub-mkimage", &words);
    fs::read(file).unwrap()
}

/// GRUB's first sector.
pub fn boot_sector() -> Vec<u8> {
    let file = "/usr/lib/grub/i386-pc/boot.img";
    fs::read(file).unwrap_or_else(|error| panic!("{file}: {error}; {SETUP}"))
}

fn kernel() -> std::path::PathBuf {
    let folder = super::cache().join("kernel");
    assert!(folder.join("vmlinuz").exists(), "{}: no kernel; {SETUP}", folder.display());
    folder
}

fn busybox(folder: &Path) {
    let to = folder.join("busybox");
    fs::copy("/bin/busybox", &to).unwrap_or_else(|error| panic!("/bin/busybox: {error}; {SETUP}"));
}

fn program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Debian's shape, without what it asks of a terminal.
fn menu(names: &Names) -> String {
    let root = &names.root;
    format!(
        "serial --unit=0 --speed=115200\nterminal_input serial\nterminal_output serial\nset timeout=0\n\
         menuentry 'System' --id 'gnulinux-simple-{root}' {{\n\
         \tsearch --no-floppy --fs-uuid --set=root {root}\n\
         \techo 'Loading Linux ...'\n\
         \tlinux /boot/vmlinuz root=UUID={root} ro console=ttyS0 quiet panic=-1\n\
         \tinitrd /boot/initrd.img\n}}\n"
    )
}

fn fstab(kind: &str, names: &Names) -> String {
    let mut text = format!("UUID={} / {kind} defaults 0 1\n", names.root);
    if let Some(esp) = &names.esp {
        text += &format!("UUID={esp}  /boot/efi  vfat  umask=0077  0  1\n");
    }
    text + &format!("UUID={}\tnone\tswap\tsw\t0\t0\n", names.swap)
}

/// The modules in the order in which they can be loaded, and busybox; not compressed, as unpacking takes longer than reading.
fn initramfs(file: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for name in ["bin", "dev", "proc", "sys", "root", "modules"] {
        fs::create_dir(at.join(name)).unwrap();
    }
    busybox(&at.join("bin"));
    program(&at.join("init"), include_str!("init.sh"));
    let mut order = String::new();
    for module in modules() {
        let name = module.rsplit('/').next().unwrap();
        fs::copy(kernel().join("modules").join(&module), at.join("modules").join(name)).unwrap();
        order += &format!("{name}\n");
    }
    fs::write(at.join("modules/order"), order).unwrap();
    sh(&format!("cd '{}' && find . | cpio -o -H newc --quiet >'{}'", at.display(), file.display()));
}

/// Each after those that it needs; what is built in is left out.
fn modules() -> Vec<String> {
    let text = fs::read_to_string(kernel().join("modules/modules.dep")).unwrap();
    let lines: Vec<(&str, Vec<&str>)> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(module, needs)| (module, needs.split_whitespace().collect()))
        .collect();
    let (mut known, mut order) = (BTreeSet::new(), Vec::new());
    for name in MODULES {
        let file = format!("/{name}.ko");
        let Some((module, needs)) = lines.iter().find(|(module, _)| module.ends_with(&file)) else {
            continue;
        };
        // modules.dep lists what is needed last first.
        for path in needs.iter().rev().chain([module]) {
            if known.insert(*path) {
                order.push((*path).to_owned());
            }
        }
    }
    order
}
