//! Times as people write and read them.

use std::time::Duration;

/// The longest time that something may take: more is a slip.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reads a time with its unit (`50ms`, `5us`, `1.5s`), in microseconds.
pub fn microseconds(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == 'µ');
    let factor = match &text[digits.len()..] {
        "us" | "µs" => 1.0,
        "ms" => 1000.0,
        "s" => 1_000_000.0,
        _ => return None,
    };
    Some(number(digits)? * factor)
}

/// Reads a number that isn't negative, in plain digits.
pub fn number(text: &str) -> Option<f64> {
    let plain = |byte: u8| byte.is_ascii_digit() || byte == b'.';
    let number = text.parse().ok().filter(|number: &f64| number.is_finite());
    number.filter(|_| text.bytes().all(plain))
}

/// Reads a time that something may take.
pub fn duration(text: &str) -> Result<Duration, String> {
    let time = microseconds(text).filter(|us| *us >= 1.0 && *us < 1e15);
    let time = time.map(|us| Duration::from_micros(us as u64));
    // Other units, and several.
    let time = time.or_else(|| humantime::parse_duration(text).ok());
    let time = time.filter(|time| !time.is_zero() && *time <= MAX_DURATION);
    time.ok_or_else(|| "must be a time with its unit, such as 30s, 500ms or 2m".to_owned())
}

/// Microseconds as milliseconds, with as many digits as they are worth.
pub fn ms(us: f64) -> String {
    let ms = us / 1000.0;
    let digits = match ms.abs() {
        ms if ms < 10.0 => 3,
        ms if ms < 100.0 => 2,
        _ => 1,
    };
    format!("{ms:.digits$}")
}

/// A number of bytes, for people.
pub fn bytes(count: u64) -> String {
    match count {
        0..10_240 => format!("{count} bytes"),
        10_240..1_048_576 => format!("{} KiB", count >> 10),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(microseconds("50ms"), Some(50_000.0));
        assert_eq!(microseconds("1.5s"), Some(1_500_000.0));
        assert_eq!(microseconds("7us"), Some(7.0));
        assert_eq!(microseconds("7µs"), Some(7.0));
        for text in [
            "", "5", "ms", "-5ms", "5 ms", "5m", "1e3ms", "infs", "NaNms", "..ms",
        ] {
            assert_eq!(microseconds(text), None, "{text}");
        }
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(duration("0s").is_err() && duration("99999999999999999s").is_err());
    }

    #[test]
    fn times_have_the_digits_that_they_are_worth() {
        assert_eq!(ms(1234.0), "1.234");
        assert_eq!(ms(12_345.0), "12.35");
        assert_eq!(ms(523_456.0), "523.5");
    }
}
