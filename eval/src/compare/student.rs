//! Student's t distribution: how far a mean of few samples strays.
//!
//! In: a deviation in standard errors, or a probability, and degrees of freedom (any positive number). Out: a two-sided
//! probability, or a deviation.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// From here on the normal distribution cannot be told from it, and series would need more digits than there are.
const MOST_FREEDOM: f64 = 1e6;

fn distribution(freedom: f64) -> Option<StudentsT> {
    (freedom > 0.0).then(|| StudentsT::new(0.0, 1.0, freedom.min(MOST_FREEDOM)).ok())?
}

/// The probability that a deviation is at least as large as `t`, in either direction, where there is no difference. Without
/// freedom (fewer than two samples) nothing is improbable: 1.
pub fn two_sided_p(t: f64, freedom: f64) -> f64 {
    match distribution(freedom) {
        Some(_) if t.is_infinite() => 0.0,
        Some(student) if !t.is_nan() => (2.0 * student.sf(t.abs())).clamp(0.0, 1.0),
        _ => 1.0,
    }
}

/// The deviation that is exceeded, in either direction, with probability `p` where there is no difference; infinite without
/// freedom.
pub fn two_sided_t(p: f64, freedom: f64) -> f64 {
    match distribution(freedom) {
        Some(_) if p >= 1.0 => 0.0,
        Some(student) if p > 0.0 => -student.inverse_cdf(p / 2.0),
        _ => f64::INFINITY,
    }
}

/// Adds independent variances, each with its degrees of freedom, and gives the degrees of freedom of the sum (F.
/// Satterthwaite, "An approximate distribution of estimates of variance components", 1946). Parts without freedom are left out.
pub fn satterthwaite(parts: &[(f64, f64)]) -> (f64, f64) {
    let known = || parts.iter().filter(|(_, freedom)| *freedom > 0.0);
    let variance: f64 = known().map(|(variance, _)| variance).sum();
    let spent: f64 = known().map(|(variance, freedom)| variance * variance / freedom).sum();
    match spent > 0.0 {
        true => (variance, variance * variance / spent),
        // All passes took the same time to the bit.
        false => (variance, known().map(|(_, freedom)| *freedom).fold(0.0, f64::max)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tail by Simpson's rule over the density, in small steps up to where nothing is left.
    fn slow_two_sided_p(t: f64, freedom: f64) -> f64 {
        let density = |x: f64| (1.0 + x * x / freedom).powf(-(freedom + 1.0) / 2.0);
        // x = t + u / (1 - u) takes the tail to 0..1.
        let tail = |from: f64| {
            let integrand = |u: f64| {
                let rest = 1.0 - u;
                if rest <= 0.0 { 0.0 } else { density(from + u / rest) / (rest * rest) }
            };
            let steps = 20_000;
            let h = 1.0 / steps as f64;
            let inner: f64 = (1..steps).map(|i| integrand(i as f64 * h) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
            (integrand(0.0) + inner + integrand(1.0)) * h / 3.0
        };
        tail(t.abs()) / tail(0.0)
    }

    #[test]
    fn it_is_the_integral_of_its_density() {
        for freedom in [1.5, 2.0, 4.0, 9.7, 30.0, 200.0] {
            for t in [0.0, 0.3, 1.0, 2.2, 5.0] {
                let (fast, slow) = (two_sided_p(t, freedom), slow_two_sided_p(t, freedom));
                assert!((fast - slow).abs() < 2e-5, "t {t}, {freedom}: {fast} and {slow}");
            }
        }
    }

    #[test]
    fn critical_values_are_those_of_the_tables() {
        let table = [
            (0.05, 1.0, 12.706),
            (0.05, 2.0, 4.303),
            (0.05, 4.0, 2.776),
            (0.05, 18.0, 2.101),
            (0.01, 10.0, 3.169),
            (0.001, 30.0, 3.646),
            (0.05, 1e9, 1.960),
        ];
        for (p, freedom, t) in table {
            assert!((two_sided_t(p, freedom) - t).abs() < 6e-4, "p {p}, {freedom}: {}", two_sided_t(p, freedom));
            assert!((two_sided_p(t, freedom) / p - 1.0).abs() < 2e-3, "t {t}, {freedom}");
        }
        // What a correction for hundreds of tests asks for.
        for (p, freedom) in [(1e-5, 4.0), (1e-6, 20.0), (1e-4, 1.0)] {
            let back = two_sided_p(two_sided_t(p, freedom), freedom);
            assert!((back / p - 1.0).abs() < 1e-3, "p {p}, {freedom}: {back}");
        }
    }

    #[test]
    fn without_freedom_nothing_is_known() {
        assert_eq!((two_sided_p(9.0, 0.0), two_sided_t(0.05, 0.0)), (1.0, f64::INFINITY));
        assert_eq!((two_sided_p(f64::NAN, 3.0), two_sided_p(f64::INFINITY, 3.0)), (1.0, 0.0));
        assert_eq!((two_sided_t(1.0, 3.0), two_sided_t(0.0, 3.0)), (0.0, f64::INFINITY));
    }
}
