//! `$LogFile`: whether the volume was closed.
//!
//! Promise: a log that is empty, or whose newer restart page says that nobody has it open, is clean; anything else is a
//! doubt. Stricter than ntfs-3g in that a restart page that makes no sense is not passed over.
//! Knows nothing of the log's records. Format and checks: ntfs-3g include/ntfs-3g/logfile.h, libntfs-3g/logfile.c
//! (`ntfs_check_logfile`, `ntfs_is_logfile_clean`), libntfs-3g/volume.c (`ntfs_volume_check_logfile`).

use super::super::Doubt;
use super::super::view::Fields;
use super::boot::BLOCK_BYTES;
use super::mft::{Mft, size};
use super::record::{DATA, fix_up};
use super::stream::Stream;
use super::{FILE_LOG, missing};

/// logfile.h: `MaxLogFileSize`, `DefaultLogPageSize`, `MinLogRecordPages` and the two restart pages.
const LOG_BYTES_MAX: u64 = 1 << 32;
const PAGE_BYTES: u64 = 4096;
const PAGES_MIN: u64 = 48 + 2;
/// A page that was never written: layout.h, `magic_empty`.
const EMPTY: &[u8] = &[0xff; 4];
/// No client: logfile.h, `LOGFILE_NO_CLIENT`.
const NO_CLIENT: u16 = 0xffff;
/// logfile.h, `RESTART_VOLUME_IS_CLEAN`.
const IS_CLEAN: u16 = 0x0002;
/// Windows' restart pages have 4 KiB.
const RESTART_BYTES_MAX: u64 = 64 << 10;

/// What matters of a restart page.
struct Restart {
    lsn: i64,
    version: (u16, u16),
    client_in_use: u16,
    flags: u16,
}

pub(super) fn check(mft: &Mft<'_>) -> Result<(), Doubt> {
    let log = mft.stream(FILE_LOG, DATA, "")?.ok_or(missing("$LogFile"))?;
    log.check_plain("$LogFile")?;
    let bytes = log.bytes().min(LOG_BYTES_MAX) & !(PAGE_BYTES - 1);
    if bytes < PAGES_MIN.saturating_mul(PAGE_BYTES) {
        return Err(Doubt::Impossible { place: "bytes of $LogFile", found: log.bytes() });
    }
    match newest(mft, &log, bytes)? {
        None => Ok(()),
        // Windows 8 and later keep metadata in memory across a fast start, and change the version when they close the log.
        Some(Restart { version: (2, 0), .. }) => Err(Doubt::Hibernated { place: "$LogFile" }),
        Some(restart) if restart.client_in_use != NO_CLIENT && restart.flags & IS_CLEAN == 0 => {
            Err(Doubt::Journal)
        }
        Some(_) => Ok(()),
    }
}

/// The newer of the restart pages; `None` for an empty log. A restart page is at 0 or where a page of some size would
/// end, so those places are looked at, as long as they hold neither the log's records nor, behind something, nothing.
fn newest(mft: &Mft<'_>, log: &Stream, bytes: u64) -> Result<Option<Restart>, Doubt> {
    let block_bytes = u64::try_from(BLOCK_BYTES).unwrap_or(u64::MAX);
    let mut newest: Option<Restart> = None;
    let (mut at, mut is_empty) = (0_u64, true);
    while at < bytes {
        let block = log.read(mft.disk(), at, block_bytes)?;
        match block.get(..4).unwrap_or_default() {
            EMPTY if is_empty => {}
            EMPTY => break,
            b"RCRD" => {
                is_empty = false;
                break;
            }
            b"RSTR" | b"CHKD" => {
                is_empty = false;
                let page = restart(mft, log, at, &block)?;
                if newest.as_ref().is_none_or(|newest| page.lsn > newest.lsn) {
                    newest = Some(page);
                }
                if at > 0 {
                    break;
                }
            }
            _ => is_empty = false,
        }
        at = if at == 0 { block_bytes } else { at.saturating_mul(2) };
    }
    match newest {
        None if !is_empty => Err(Doubt::Impossible { place: "restart pages of $LogFile", found: 0 }),
        newest => Ok(newest),
    }
}

/// Reads a restart page: logfile.h, `RESTART_PAGE_HEADER` and `RESTART_AREA`.
fn restart(mft: &Mft<'_>, log: &Stream, at: u64, block: &[u8]) -> Result<Restart, Doubt> {
    let wrong = |found| Doubt::Impossible { place: "restart page of $LogFile at", found };
    let (page_bytes, record_page_bytes) = (u64::from(block.le32(16)?), u64::from(block.le32(20)?));
    let version = (block.le16(28)?, block.le16(26)?);
    let sane = |bytes: u64| bytes.is_power_of_two() && (512..=RESTART_BYTES_MAX).contains(&bytes);
    if !sane(page_bytes) || !sane(record_page_bytes) || (at != 0 && at != page_bytes) {
        return Err(wrong(at));
    }
    if !matches!(version, (1, 1) | (2, 0)) {
        return Err(Doubt::Feature { place: "version of $LogFile", found: version.0.into() });
    }
    let checked = block.starts_with(b"CHKD");
    let mut page = log.read(mft.disk(), at, page_bytes)?;
    // A check may leave its pages unprotected.
    if !(checked && page.le16(6)? == 0) {
        fix_up(&mut page, "restart page of $LogFile", at)?;
    }
    let area_at = usize::from(page.le16(24)?);
    let checked_lsn = page.le64(8)?;
    // Only a check sets its own sequence number.
    if area_at % 8 != 0 || area_at < 30 || (!checked && checked_lsn != 0) {
        return Err(wrong(at));
    }
    let area = page.part(area_at, page.len().saturating_sub(area_at))?;
    let (clients, free, client_in_use) = (area.le16(8)?, area.le16(10)?, area.le16(12)?);
    let listed = |client: u16| client == NO_CLIENT || client < clients;
    let (len, array) = (usize::from(area.le16(20)?), usize::from(area.le16(22)?));
    /// logfile.h, `LOG_CLIENT_RECORD`.
    const CLIENT_BYTES: usize = 160;
    let needed = array.saturating_add(usize::from(clients).saturating_mul(CLIENT_BYTES));
    if !listed(free) || !listed(client_in_use) || len > area.len() || needed > len || array % 8 != 0 {
        return Err(wrong(at));
    }
    let file_bytes = area.le64(24)?;
    let bits = 64_u32.saturating_sub(file_bytes.leading_zeros());
    if area.le32(16)? != 67_u32.saturating_sub(bits) || size(file_bytes) < page.len() {
        return Err(wrong(at));
    }
    let lsn = if checked { checked_lsn } else { area.le64(0)? };
    Ok(Restart { lsn: lsn.cast_signed(), version, client_in_use, flags: area.le16(14)? })
}
