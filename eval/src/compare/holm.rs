//! Holm's correction for many tests (S. Holm, "A simple sequentially rejective multiple test procedure", 1979).
//!
//! In: the p of every test of a family. Out: adjusted p, each to be held against the one threshold.
//!
//! It bounds the probability that anything at all is reported where nothing differs, whatever the tests share. Benjamini
//! and Hochberg's procedure bounds the part of false reports among all reports, finds more, and would do for exploring;
//! but here one false report fails a build, and the settings of one index share its queries and the minutes in which they
//! were measured, which their procedure allows only in part.

/// Adjusted p, in the order given: the smallest threshold at which Holm's procedure rejects each.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![1.0; p.len()];
    let mut most = 0.0f64;
    for (rank, &test) in order.iter().enumerate() {
        most = most.max((p.len() - rank) as f64 * p[test]).min(1.0);
        adjusted[test] = most;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The procedure as it is written down: reject the smallest p at alpha / m, the next at alpha / (m - 1), and so on, up
    /// to the first that is not rejected.
    fn rejected(p: &[f64], alpha: f64) -> Vec<bool> {
        let mut rejected = vec![false; p.len()];
        for left in (1..=p.len()).rev() {
            let rest = (0..p.len()).filter(|&i| !rejected[i]);
            let Some(smallest) = rest.min_by(|&a, &b| p[a].total_cmp(&p[b])) else { break };
            if p[smallest] * left as f64 > alpha {
                break;
            }
            rejected[smallest] = true;
        }
        rejected
    }

    #[test]
    fn by_hand() {
        // .01 x 4, .02 x 3, .03 x 2 raised to what came before, .5.
        let adjusted = holm(&[0.02, 0.5, 0.01, 0.03]);
        for (adjusted, expected) in adjusted.iter().zip([0.06, 0.5, 0.04, 0.06]) {
            assert!((adjusted - expected).abs() < 1e-12, "{adjusted} is not {expected}");
        }
        assert_eq!(holm(&[0.4]), [0.4]);
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn adjusted_p_reject_what_the_procedure_rejects(
            p in prop::collection::vec(0.0f64..=1.0, 0..12), squeeze in 0u32..4, alpha in 0.001f64..0.5,
        ) {
            let p: Vec<f64> = p.into_iter().map(|p| p.powi(1 << squeeze)).collect();
            let by_adjusted: Vec<bool> = holm(&p).into_iter().map(|adjusted| adjusted <= alpha).collect();
            prop_assert_eq!(by_adjusted, rejected(&p, alpha));
        }
    }
}
