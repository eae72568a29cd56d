//! Sizes, durations, dates and shares: what people type, and how they read them.
//!
//! Promise: sizes are binary units, dates ISO 8601 in local time; what cannot be understood is answered with an example.
//! Knows nothing of options or commands.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use std::time::Duration;

/// `12.3 GiB`.
pub(crate) fn show_bytes(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}

/// `12.3 GiB (13207024435 bytes)`: where the exact number matters.
pub(crate) fn show_bytes_exactly(bytes: u64) -> String {
    format!("{} ({bytes} bytes)", show_bytes(bytes))
}

/// `512 MiB/s`; empty before there is anything to tell.
pub(crate) fn show_rate(bytes: u64, elapsed: Duration) -> String {
    let millis = elapsed.as_millis().max(1);
    let rate = u128::from(bytes) * 1000 / millis;
    format!("{}/s", show_bytes(u64::try_from(rate).unwrap_or(u64::MAX)))
}

/// `0.4 s`, `12 s`, `3:07 min`, `5:03:07 h`.
pub(crate) fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes}:{rest:02} min"),
        _ => format!("{hours}:{minutes:02}:{rest:02} h"),
    }
}

/// `2026-11-22 18:49:24`, in the zone given.
pub(crate) fn show_time(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// `3 days ago`, for the eye; the exact time stands elsewhere.
pub(crate) fn show_age(time: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(time.as_second());
    let (count, unit) = match seconds {
        i64::MIN..0 => return "in the future".to_owned(),
        0..60 => return "just now".to_owned(),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

/// `3.1x`, or `-` where there is nothing to divide.
pub(crate) fn show_ratio(of: u64, to: u64) -> String {
    if of == 0 || to == 0 {
        return "-".to_owned();
    }
    // Two decimals at most: the loss of precision of large numbers is below what is shown.
    #[allow(clippy::cast_precision_loss)]
    let ratio = of as f64 / to as f64;
    format!("{ratio:.2}x")
}

/// `4096`, `64K`, `64KiB` (binary), `64KB` (decimal).
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size; examples: 4096, 64KiB, 4MiB, 1GB");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(wrong)
}

/// Numbers, each with its unit: `1y2m3d` is `[(1, "y"), (2, "m"), (3, "d")]`.
fn parts(text: &str) -> Option<Vec<(i64, &str)>> {
    let mut rest = text.trim();
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, behind) = rest.split_at(digits);
        let letters = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(letters);
        parts.push((number.parse().ok()?, unit));
        rest = behind.trim_start();
    }
    (!parts.is_empty()).then_some(parts)
}

/// `90s`, `5m` (minutes), `1h30m`, `2d`, `1w`; `0` is none at all.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration; examples: 90s, 5m, 1h30m, 7d, 2w");
    if text.trim() == "0" {
        return Ok(Duration::ZERO);
    }
    let mut seconds = 0u64;
    for (number, unit) in parts(text).ok_or_else(wrong)? {
        let factor = match unit {
            "s" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            _ => return Err(wrong()),
        };
        let part = u64::try_from(number).ok().and_then(|number| number.checked_mul(factor));
        seconds = part.and_then(|part| seconds.checked_add(part)).ok_or_else(wrong)?;
    }
    Ok(Duration::from_secs(seconds))
}

/// `1y2m3d4h` as restic has it: here `m` are months. Weeks (`w`) besides.
pub(crate) fn parse_span(text: &str) -> Result<Span, String> {
    let wrong = || format!("{text:?} is not a span of time; examples: 7d, 2m, 1y2m3d, 36h (m = months)");
    let mut span = Span::new();
    for (number, unit) in parts(text).ok_or_else(wrong)? {
        let next = match unit {
            "y" => span.try_years(number),
            "m" => span.try_months(number),
            "w" => span.try_weeks(number),
            "d" => span.try_days(number),
            "h" => span.try_hours(number),
            _ => return Err(wrong()),
        };
        span = next.map_err(|_| wrong())?;
    }
    Ok(span)
}

/// `5%` or `0.5%`, above 0 and up to 100.
pub(crate) fn parse_percent(text: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is not a share; examples: 5%, 0.5%");
    let number: f64 = text.trim().trim_end_matches('%').trim_end().parse().map_err(|_| wrong())?;
    if number > 0.0 && number <= 100.0 { Ok(number) } else { Err(wrong()) }
}

/// `2026-08-01`, `2026-08-01 12:00` (local) or `2026-08-01T12:00:00Z`.
pub(crate) fn parse_moment(text: &str) -> Result<Timestamp, String> {
    moment_in(text, &TimeZone::system())
}

fn moment_in(text: &str, zone: &TimeZone) -> Result<Timestamp, String> {
    let wrong = || {
        format!("{text:?} is not a date; examples: 2026-08-01, \"2026-08-01 12:00\", 2026-08-01T12:00:00Z")
    };
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Ok(instant);
    }
    let local = text.parse::<DateTime>().or_else(|_| text.parse::<Date>().map(|date| date.at(0, 0, 0, 0)));
    let zoned = local.map_err(|_| wrong())?.to_zoned(zone.clone()).map_err(|_| wrong())?;
    Ok(zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::ToSpan;

    #[test]
    fn sizes_are_binary_unless_they_say_otherwise() {
        let cases =
            [("4096", 4096), ("64K", 65_536), ("64KiB", 65_536), ("4 MiB", 4 << 20), ("1GB", 1_000_000_000)];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "KiB", "-1", "1.5M", "1Q", "99999999999999T"] {
            assert!(parse_size(bad).unwrap_err().contains("examples:"), "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_in_binary_units() {
        let shown = [0, 512, 1024, 13_207_024_435, 1 << 40].map(show_bytes);
        assert_eq!(shown, ["0 B", "512 B", "1.0 KiB", "12.3 GiB", "1.0 TiB"]);
        assert_eq!(show_bytes_exactly(1 << 20), "1.0 MiB (1048576 bytes)");
        assert_eq!(show_rate(1 << 30, Duration::from_millis(500)), "2.0 GiB/s");
        assert_eq!(show_rate(0, Duration::ZERO), "0 B/s");
    }

    #[test]
    fn durations_go_both_ways() {
        let cases = [
            ("90s", 90),
            ("5m", 300),
            ("1h30m", 5400),
            ("7d", 604_800),
            ("2w", 1_209_600),
            ("0", 0),
            ("1h 1s", 3601),
        ];
        for (text, seconds) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "5", "5y", "m5", "1h5", "99999999999999999w"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        let shown =
            [400, 12_000, 187_000, 18_187_000].map(|millis| show_duration(Duration::from_millis(millis)));
        assert_eq!(shown, ["0.4 s", "12 s", "3:07 min", "5:03:07 h"]);
    }

    #[test]
    fn spans_have_months_where_durations_have_minutes() {
        assert_eq!(
            parse_span("1y2m3d4h").unwrap().fieldwise(),
            1.year().months(2).days(3).hours(4).fieldwise()
        );
        assert_eq!(parse_span("2w").unwrap().fieldwise(), 2.weeks().fieldwise());
        for bad in ["", "5", "5s", "99999999y"] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_are_above_nothing_and_at_most_all() {
        assert_eq!(parse_percent("5%"), Ok(5.0));
        assert_eq!(parse_percent("0.5"), Ok(0.5));
        for bad in ["0", "101%", "-1", "x", "nan"] {
            assert!(parse_percent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn dates_are_local_and_begin_at_midnight() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let moment = |text| moment_in(text, &zone).map(|moment| moment.to_string());
        assert_eq!(moment("2026-08-01").as_deref(), Ok("2026-07-31T22:00:00Z"));
        assert_eq!(moment("2026-08-01 12:30").as_deref(), Ok("2026-08-01T10:30:00Z"));
        assert_eq!(moment("2026-08-01T12:30:00Z").as_deref(), Ok("2026-08-01T12:30:00Z"));
        assert!(moment("yesterday").is_err());
        let time = "2026-08-01T12:30:00Z".parse().unwrap();
        assert_eq!(show_time(time, &zone), "2026-08-01 14:30:00");
    }

    #[test]
    fn ages_and_ratios_are_short() {
        let then: Timestamp = "2026-08-01T12:00:00Z".parse().unwrap();
        let age = |later: Span| show_age(then, then + later);
        assert_eq!(
            [age(5.seconds()), age(1.minute()), age(50.hours())],
            ["just now", "1 minute ago", "2 days ago"]
        );
        assert_eq!([show_ratio(10, 4), show_ratio(10, 0)], ["2.50x", "-"]);
    }
}
