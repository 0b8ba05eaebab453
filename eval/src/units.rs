//! Sizes and times as people write them.
//!
//! In: text. Out: bytes, or a duration; or in a few words what is allowed.

use std::time::Duration;

/// A number times its unit, the first of `units` that the text ends with. `None` where it is no number, or has none of them.
pub fn scaled(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let (number, unit) = units.iter().find_map(|&(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    Some(number.trim().parse::<f64>().ok()? * unit)
}

/// A size as people write it: `4GiB`, `512 MiB`, `1.5GB`, `1000000`.
///
/// # Errors
/// In words, what a size looks like.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 10] = [
        ("kib", 1024.0),
        ("mib", 1_048_576.0),
        ("gib", 1_073_741_824.0),
        ("tib", 1_099_511_627_776.0),
        ("kb", 1e3),
        ("mb", 1e6),
        ("gb", 1e9),
        ("tb", 1e12),
        ("b", 1.0),
        ("", 1.0),
    ];
    scaled(&text.trim().to_lowercase(), &UNITS)
        .filter(|bytes| (1.0..=u64::MAX as f64 / 2.0).contains(bytes))
        .map(|bytes| bytes as u64)
        .ok_or_else(|| "not a size: write a number and a unit, such as 512MiB or 4GiB".into())
}

/// The longest time that can be asked for: what is longer is a slip of the pen.
const LONGEST_SECONDS: f64 = 365.0 * 86_400.0;

/// A time as people write it: `90s`, `30min`, `1.5h`, `250ms`; a bare number is of seconds.
///
/// # Errors
/// In words, what a time looks like.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 6] = [("ms", 1e-3), ("min", 60.0), ("m", 60.0), ("s", 1.0), ("h", 3600.0), ("", 1.0)];
    scaled(&text.trim().to_lowercase(), &UNITS)
        .filter(|seconds| *seconds > 0.0 && *seconds <= LONGEST_SECONDS)
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "not a time: write a number and a unit, such as 90s, 30min or 2h".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, expected) in
            [("4GiB", 4u64 << 30), ("512 MiB", 512 << 20), ("1.5GB", 1_500_000_000), ("7", 7), ("9b", 9), ("2KB", 2000)]
        {
            assert_eq!(parse_bytes(text), Ok(expected), "{text}");
        }
        for wrong in ["", "GiB", "-1GiB", "0", "4 gigs", "nan", "1e30TiB", "inf"] {
            assert!(parse_bytes(wrong).is_err_and(|why| why.contains("4GiB")), "{wrong}");
        }
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, seconds) in [("90s", 90.0), ("30 min", 1800.0), ("2m", 120.0), ("1.5h", 5400.0), ("250ms", 0.25)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        assert_eq!(parse_duration("7"), Ok(Duration::from_secs(7)));
        for wrong in ["", "min", "-1s", "0", "soon", "nan", "inf", "1e9h"] {
            assert!(parse_duration(wrong).is_err_and(|why| why.contains("30min")), "{wrong}");
        }
    }
}
