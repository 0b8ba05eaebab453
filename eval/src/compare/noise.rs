//! How far two runs of the same thing lie apart: the noise floor.
//!
//! In: series that several runs measured, the same program on the same machine: an A/A run. Out: [`Noise`]: the variance
//! between runs that no run can see in its own passes, and the floor below which a difference is never told.
//!
//! The settings of an index in one place are measured in turns, so that a slow minute falls on all of them: however many
//! they are, they show how runs differ once. That is how degrees of freedom are counted.

use super::bootstrap::variance;
use super::sample::{Sampled, Series};
use crate::stats;

/// Without an A/A run: differences in speed up to this are never told. What moves a whole run (another place in memory, a
/// neighbour, heat) is not in its passes. [`crate::compare`] says how it was chosen.
pub const FLOOR_WITHOUT_AA: f64 = 0.03;

/// With an A/A run: nor up to this, however still it was. A single pair of runs can agree by luck.
pub const LEAST_FLOOR: f64 = 0.01;

/// Part of the differences between runs of the same thing that stay below the floor.
const FLOOR_QUANTILE: f64 = 0.95;

/// How runs of the same thing differ in one mode.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise {
    /// Variance of a run's log QPS beyond what its passes show.
    pub session_variance: f64,
    /// Degrees of freedom behind it; 0 where no two runs were of the same thing.
    pub freedom: f64,
    /// Difference of log QPS between two single runs up to which nothing is told.
    floor: f64,
}

impl Noise {
    /// Without an A/A run.
    pub fn unknown() -> Self {
        Self { session_variance: 0.0, freedom: 0.0, floor: FLOOR_WITHOUT_AA.ln_1p() }
    }

    /// What these series of one mode show; those of a single run show nothing.
    pub fn of<'a>(series: impl IntoIterator<Item = &'a Series>) -> Self {
        let (mut excess, mut freedom, mut apart) = (0.0, 0.0, Vec::new());
        for series in series {
            let repeated: Vec<&Sampled> = series.settings.iter().filter(|s| s.sessions.len() > 1).collect();
            let Some(runs) = repeated.iter().map(|setting| setting.sessions.len()).max() else { continue };
            let between = repeated.iter().map(|setting| excess_variance(series, setting)).sum::<f64>();
            excess += (runs - 1) as f64 * between / repeated.len() as f64;
            freedom += (runs - 1) as f64;
            apart.extend(repeated.iter().flat_map(|setting| differences(setting)));
        }
        match stats::quantile(&apart, FLOOR_QUANTILE) {
            Some(floor) => {
                Self { session_variance: (excess / freedom).max(0.0), freedom, floor: floor.max(LEAST_FLOOR.ln_1p()) }
            }
            None => Self::unknown(),
        }
    }

    /// The difference of log QPS up to which nothing is told between means of `runs_a` and `runs_b` runs.
    pub fn floor(&self, runs_a: usize, runs_b: usize) -> f64 {
        self.floor * (0.5 * spread(runs_a, runs_b)).sqrt()
    }

    /// The variance that runs add to the difference of means of `runs_a` and `runs_b` runs.
    pub fn between(&self, runs_a: usize, runs_b: usize) -> f64 {
        self.session_variance * spread(runs_a, runs_b)
    }

    /// Whether two runs of the same thing are behind it.
    pub fn is_known(&self) -> bool {
        self.freedom > 0.0
    }
}

fn spread(runs_a: usize, runs_b: usize) -> f64 {
    1.0 / runs_a.max(1) as f64 + 1.0 / runs_b.max(1) as f64
}

/// How much more the runs of a setting vary than their passes explain; negative where they vary less.
fn excess_variance(series: &Series, setting: &Sampled) -> f64 {
    let speeds: Vec<f64> = setting.sessions.iter().map(|session| session.log_qps).collect();
    let within: Vec<f64> = setting.sessions.iter().map(|session| series.session_variance(session)).collect();
    variance(&speeds) - stats::mean(&within).unwrap_or(0.0)
}

/// The difference of every two runs of a setting.
fn differences(setting: &Sampled) -> impl Iterator<Item = f64> + '_ {
    let speeds = &setting.sessions;
    let pairs = speeds.iter().enumerate().flat_map(|(i, one)| speeds[i + 1..].iter().map(move |other| (one, other)));
    pairs.map(|(one, other)| (one.log_qps - other.log_qps).abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::sample::{QueryTimes, Session};

    /// A setting measured by one run for each of these speeds.
    fn setting(log_qps: &[f64], variance: f64) -> Sampled {
        let session =
            |(run, &log_qps)| Session { run, log_qps, variance: Some(variance), turn_log_qps: vec![log_qps; 10] };
        Sampled {
            params: Default::default(),
            sessions: log_qps.iter().enumerate().map(session).collect(),
            recall: None,
            query_recall: Vec::new(),
            times: QueryTimes::default(),
            passes: 10,
        }
    }

    #[test]
    fn runs_of_the_same_thing_show_what_lies_between_runs() {
        // In units of 1e-4: speeds of 1, 2 and 4 hundredths vary by 7/3, three equal ones by 0; passes explain 1/3 of each.
        let series = Series::new(vec![setting(&[0.01, 0.02, 0.04], 1e-4 / 3.0), setting(&[0.05; 3], 1e-4 / 3.0)]);
        let noise = Noise::of([&series]);
        assert!((noise.session_variance - 1e-4 * (2.0 - 1.0 / 3.0) / 2.0).abs() < 1e-12, "{noise:?}");
        assert_eq!((noise.freedom, noise.is_known()), (2.0, true));
        // 1, 2, 3 and three times 0 hundredths: 95% of the way along six is .75 of the way from 2 to 3.
        assert!((noise.floor(1, 1) - 0.0275).abs() < 1e-12, "{noise:?}");
        assert!((noise.floor(4, 4) - 0.0275 / 2.0).abs() < 1e-12);
        assert!((noise.between(2, 1) - 1.5 * noise.session_variance).abs() < 1e-18);
        // Another index is another window.
        assert_eq!(Noise::of([&series, &series]).freedom, 4.0);
    }

    #[test]
    fn agreement_by_luck_leaves_a_floor() {
        let still = Series::new(vec![setting(&[0.3, 0.3], 1e-4)]);
        let noise = Noise::of([&still]);
        assert_eq!((noise.session_variance, noise.floor(1, 1)), (0.0, LEAST_FLOOR.ln_1p()));
        let alone = Series::new(vec![setting(&[0.3], 1e-4)]);
        assert_eq!(Noise::of([&alone]), Noise::unknown());
        assert_eq!(Noise::of([]).floor(1, 1), FLOOR_WITHOUT_AA.ln_1p());
    }
}
