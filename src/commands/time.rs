//! Times on the command line.

use std::time::Duration;

use kiln_eval::units::scaled;

/// A time as people write it: `500ms`, `10s`, `2m`.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    scaled(text, &[("ms", 1e-3), ("s", 1.0), ("m", 60.0)])
        .filter(|seconds| *seconds > 0.0 && *seconds <= 86_400.0)
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "not a time: write a number and a unit, such as 500ms, 10s or 2m".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, ms) in [("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("1.5s", 1500), ("0.5 s", 500)] {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for wrong in ["", "10", "s", "-1s", "0s", "nan s", "1e9s", "10h"] {
            assert!(parse_time(wrong).is_err_and(|why| why.contains("500ms")), "{wrong}");
        }
    }
}
