//! Times as DOS kept them: two numbers of 16 bits, without a time zone.
//!
//! Promise: any two numbers give a time; those that are no date give the epoch's.
//! Knows nothing of folders. Format: Microsoft FAT specification (fatgen103), "Date and Time Formats".

use super::FileTime;

/// A date and a time, and hundredths of a second more; taken for UTC.
pub(super) fn time(date: u16, time: u16, hundredths: u8) -> FileTime {
    let (year, month, day) = (i64::from(date >> 9), i64::from(date >> 5 & 0xf), i64::from(date & 0x1f));
    let (hour, minute, second) = (i64::from(time >> 11), i64::from(time >> 5 & 0x3f), i64::from(time & 0x1f));
    if !(1..=12).contains(&month) || day == 0 {
        return FileTime::default();
    }
    let days = days(year.saturating_add(1980), month, day);
    let of_day = hour.saturating_mul(3600).saturating_add(minute.saturating_mul(60));
    let of_day = of_day.saturating_add(second.saturating_mul(2)).saturating_add((hundredths / 100).into());
    let seconds = days.saturating_mul(86_400).saturating_add(of_day);
    FileTime { seconds, nanos: u32::from(hundredths % 100).saturating_mul(10_000_000) }
}

/// Days from 1970 to a day of the Gregorian calendar, from 1980 on: years that begin in March put the leap day last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year.saturating_sub(1) } else { year };
    let from_march = month.saturating_add(9) % 12;
    let leap_days = (year / 4).saturating_sub(year / 100).saturating_add(year / 400);
    let of_year = from_march.saturating_mul(153).saturating_add(2) / 5;
    let days = year.saturating_mul(365).saturating_add(leap_days).saturating_add(of_year).saturating_add(day);
    /// Of 1970-01-01, counted so.
    const EPOCH: i64 = 719_469;
    days.saturating_sub(EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(year: u16, month: u16, day: u16) -> i64 {
        time((year - 1980) << 9 | month << 5 | day, 0, 0).seconds
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        // date -u -d 1980-01-01 +%s, and so on.
        assert_eq!(of(1980, 1, 1), 315_532_800);
        assert_eq!(of(2000, 2, 29), 951_782_400);
        assert_eq!(of(2024, 3, 1), 1_709_251_200);
        assert_eq!(of(2107, 12, 31), 4_354_732_800);
        let noon = time(0x21, 12 << 11 | 34 << 5 | 28, 150);
        assert_eq!(noon, FileTime { seconds: 315_532_800 + 12 * 3600 + 34 * 60 + 57, nanos: 500_000_000 });
        assert_eq!(time(0, 0, 0), FileTime::default());
    }
}
