//! Texts that name identities (fstab, GRUB's configuration, loader entries): rewritten where identities have changed.
//!
//! Promise: only files that are known to name them are looked at, inside overlays; links are never followed out of a volume.
//! Knows nothing of their syntax: `disk::boot::references` does.

use disk::boot::{rewrite_fat, rewrite_tree};
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
            Ok(rewrite_tree(mounted.path(), &pairs))
        })?,
        "vfat" => rewrite_fat(&*volume.changeable(workshop)?, &pairs),
        _ => return Ok(()),
    };
    match found {
        Ok(texts) => {
            for (file, count) in texts.rewritten {
                let plural = if count == 1 { "identity" } else { "identities" };
                making.done.push(format!("partition {number}: /{file}: {count} {plural} rewritten"));
            }
            for file in texts.unread {
                making.left.push(format!(
                    "partition {number}: /{file} may name old identities: make it anew once the system runs (update-initramfs -u)"
                ));
            }
        }
        Err(problem) => making.left_over(&format!("partition {number}: texts"), &problem),
    }
    Ok(())
}
