//! Texts that name identities (fstab, GRUB's configuration, loader entries): rewritten where identities have changed.
//!
//! Promise: only files that are known to name them are looked at, inside overlays; links are never followed out of a volume.
//! Knows nothing of their syntax: `disk::boot::references` does.

use disk::boot::{BootProblem, rewrite_fat, rewrite_tree};
use disk::tools;

use super::ready::{Making, Prepared};
use crate::Error;

/// Rewrites the texts of one volume, where its filesystem can be written to here.
pub(super) fn rewrite(making: &mut Making<'_>, volume: &mut Prepared) -> Result<(), Error> {
    let (kind, pairs, workshop) = (volume.kind().to_owned(), making.renamed.clone(), making.workshop);
    let number = volume.plan.number;
    let found = match kind.as_str() {
        "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" => volume.with_file(workshop, |shown| {
            let mounted = tools::OpenFolder::new(&kind, shown.path(), workshop.folder())?;
            let texts = rewrite_tree(mounted.path(), &pairs);
            mounted.close()?;
            Ok(texts)
        })?,
        "vfat" => rewrite_fat(&*volume.changeable(workshop)?, &pairs),
        "LVM2_member" | "crypto_LUKS" | "linux_raid_member" | "f2fs" | "BitLocker" | "zfs_member" => {
            making.left.push(format!(
                "partition {number}: {kind}: what names old identities inside it is not rewritten"
            ));
            return Ok(());
        }
        "ntfs" => {
            making.notes.push(format!(
                "partition {number}: if Windows starts from it, it wants `bcdboot C:\\Windows` from its installation medium"
            ));
            return Ok(());
        }
        _ => return Ok(()),
    };
    match found {
        Ok(texts) => {
            for (file, count) in texts.rewritten {
                let plural = if count == 1 { "identity" } else { "identities" };
                making.done.push(format!("partition {number}: /{file}: {count} {plural} rewritten"));
            }
            for file in texts.unread {
                making.notes.push(format!(
                    "partition {number}: /{file} may name old identities: make it anew once the system runs (update-initramfs -u)"
                ));
            }
        }
        // It is as it was.
        Err(problem @ BootProblem::Doubtful { .. }) => {
            making.left_over(&format!("partition {number}: texts"), &problem);
        }
        Err(problem) => return Err(Error::Boot { number, problem }),
    }
    Ok(())
}
