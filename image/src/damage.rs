//! A range of an image that the store can't deliver.
//!
//! Knows nothing of what is done about it.

use disk::Extent;

/// One range, and why.
#[derive(Debug)]
pub struct Damage {
    /// Where in the image.
    pub extent: Extent,
    /// In which volume of the source its first byte lies.
    pub volume: Option<u32>,
    /// What the store says; of the first chunk, where neighbours were joined.
    pub error: store::Error,
}

/// Sorts ranges and joins those that touch and lie in the same volume.
pub(crate) fn join_damage(mut all: Vec<Damage>) -> Vec<Damage> {
    all.sort_by_key(|damage| damage.extent);
    let mut joined: Vec<Damage> = Vec::new();
    for damage in all {
        match joined.last_mut() {
            Some(last) if damage.extent.offset <= last.extent.end() && damage.volume == last.volume => {
                last.extent.bytes = last.extent.end().max(damage.extent.end()) - last.extent.offset;
            }
            _ => joined.push(damage),
        }
    }
    joined
}
