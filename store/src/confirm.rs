//! From a finished tree to a confirmed image: manifest, post-check, marker (DESIGN §5.3, steps 4 to 6).
//!
//! Promise: the marker is written only after the post-check of that very manifest has passed.
//! Knows nothing of how chunks were stored.

use crate::Error;
use crate::backend::Put;
use crate::id::{ImageId, PackId};
use crate::manifest::Manifest;
use crate::objects::{delete, image_name, mark_name};
use crate::session::MarkKind;
use crate::writer::{Finished, Writer};

impl Writer {
    /// Steps 4 to 6 of DESIGN §5.3.
    pub(crate) fn publish_confirmed(&self, mut manifest: Manifest) -> Result<Finished, Error> {
        let mut superseded: Vec<ImageId> = manifest.supersedes.into_iter().collect();
        loop {
            let (image, bytes) = manifest.encode();
            let put = self.objects().put(&image_name(image), &bytes)?;
            // Never confirmed, and never to be: a tombstone, so that no collector stumbles over it. If it can't be
            // written the image is shown as unconfirmed, which it is. One that was there before is somebody else's too.
            let give_up = |_: &Error| {
                if put == Put::Created {
                    self.objects().put_mark(image, MarkKind::Forgotten).ok();
                }
            };
            if put == Put::Exists {
                // The same image was made before, by an undelete that failed or was taken back, say.
                self.take_tombstone(image)?;
            }
            let lost = self.store().packs_lost(&manifest, Some(&self.catalogue().sizes()));
            let lost = lost.map_err(|error| vanished(image, 1, error)).inspect_err(give_up)?;
            if lost.is_empty() {
                self.objects().put_mark(image, MarkKind::Ok)?;
                superseded.iter().try_for_each(|old| self.objects().put_mark(*old, MarkKind::Forgotten))?;
                return Ok(Finished { image, manifest });
            }
            superseded.push(image);
            manifest = self.replace_lost(image, &manifest, &lost).inspect_err(give_up)?;
        }
    }

    /// Takes the tombstone of an image away, so that it can be confirmed. The order matters (DESIGN §5.6): a collector
    /// that saw the tombstone before may be removing the image. Where there is a lock we hold it, and no collector
    /// lives; one that died there has not removed it.
    pub(crate) fn take_tombstone(&self, image: ImageId) -> Result<(), Error> {
        let delete_power = self.store().powers().delete.as_ref();
        delete(self.objects(), delete_power, &mark_name(image, MarkKind::Forgotten))?;
        if !self.is_locked() && self.objects().condemned_images()?.contains(&image) {
            self.objects().put_mark(image, MarkKind::Forgotten)?;
            return Err(Error::BeingCollected { image });
        }
        Ok(())
    }

    /// Confirms an image that is there already; or makes and confirms the one that replaces it, when some of its packs
    /// are condemned.
    pub(crate) fn confirm(&self, image: ImageId, manifest: &Manifest) -> Result<Finished, Error> {
        let lost = self.store().packs_lost(manifest, None)?;
        if lost.is_empty() {
            self.objects().put_mark(image, MarkKind::Ok)?;
            return Ok(Finished { image, manifest: manifest.clone() });
        }
        let manifest = self.replace_lost(image, manifest, &lost)?;
        self.publish_confirmed(manifest)
    }

    /// The manifest of the same bytes without these packs: what lay in them is stored again, from wherever it still is.
    fn replace_lost(&self, image: ImageId, manifest: &Manifest, lost: &[PackId]) -> Result<Manifest, Error> {
        self.catalogue().forget_packs(lost);
        match crate::rewrite::without(self, manifest, lost) {
            Ok(root) => Ok(Manifest { root, supersedes: Some(image), ..manifest.clone() }),
            Err(error) => Err(vanished(image, lost.len(), error)),
        }
    }
}

/// What is needed and nowhere to be found was collected.
fn vanished(image: ImageId, packs: usize, error: Error) -> Error {
    if error.family() == crate::Family::Damaged { Error::PacksVanished { image, packs } } else { error }
}
