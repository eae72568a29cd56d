//! The README's generated parts: between `<!-- compare:NAME -->` and `<!-- /compare:NAME -->`.
//!
//! Promise: nothing outside of the markers changes. Knows nothing of what is written.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Puts `text` where `name` stands.
pub(crate) fn write(name: &str, text: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let before = fs::read_to_string(&path)?;
    let after =
        replaced(&before, name, text).with_context(|| format!("{}: no markers of {name}", path.display()))?;
    fs::write(&path, after)?;
    Ok(())
}

fn replaced(page: &str, name: &str, text: &str) -> Option<String> {
    let (opening, closing) = (format!("<!-- compare:{name} -->"), format!("<!-- /compare:{name} -->"));
    let (before, rest) = page.split_once(&opening)?;
    let (_, after) = rest.split_once(&closing)?;
    Some(format!("{before}{opening}\n{}\n{closing}{after}", text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let page = "a\n<!-- compare:warm -->\nearlier\n<!-- /compare:warm -->\nb\n<!-- compare:cold --><!-- /compare:cold -->\n";
        let once = replaced(page, "warm", "new\n").unwrap();
        assert_eq!(once, page.replace("earlier", "new"));
        assert_eq!(replaced(&once, "warm", "new").unwrap(), once);
        assert_eq!(replaced(page, "commands", "new"), None);
    }

    #[test]
    fn the_page_has_all_markers() {
        let page = include_str!("../../README.md");
        for name in ["warm", "cold", "commands"] {
            assert!(replaced(page, name, "").is_some(), "{name}");
        }
    }
}
