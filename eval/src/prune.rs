//! Which settings are worth measuring: those that might be on the recall-throughput frontier, and for which there is
//! time.
//!
//! In: what a short probe told of each setting: every query's recall, which is exact, and a rough rate. Out: for each
//! whether another beats it beyond doubt, and whether it fits into the time that is left ([`sift`]). Pure functions:
//! nothing is measured here.

use std::time::Duration;

use crate::record::Skip;
use crate::stats;

/// A probe is a single short turn: what it tells of a rate is believed to so much at best, whatever the noise check says.
const LEAST_MARGIN: f64 = 0.10;

/// Standard errors by which recall must differ.
const RECALL_ERRORS: f64 = 2.0;

/// What a probe told of one setting.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Probed {
    /// Its search parameters, in words.
    pub name: String,
    /// Settings are compared within a group: one mode of one index in one place.
    pub group: usize,
    /// Recall of each query that has neighbours and chooses, in query order.
    pub recalls: Vec<f64>,
    /// Queries a second.
    pub qps: f64,
    /// Seconds that measuring it in full will take.
    pub cost_seconds: f64,
}

/// What becomes of a setting.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Sifted {
    /// It is measured.
    Worth,
    /// It is not, for this reason.
    LeftOut(Skip, String),
}

/// What becomes of each setting: those that others beat are left out where `prune` says so, and of the rest those that
/// take longer than what is `left`.
pub(crate) fn sift(probed: &[Probed], prune: bool, spread: f64, left: Option<Duration>) -> Vec<Sifted> {
    let beaten = if prune { dominated(probed, spread) } else { vec![None; probed.len()] };
    let kept: Vec<usize> = (0..probed.len()).filter(|&number| beaten[number].is_none()).collect();
    let candidates: Vec<Probed> = kept.iter().map(|&number| probed[number].clone()).collect();
    let in_time = within_budget(&candidates, left.map_or(f64::INFINITY, |left| left.as_secs_f64()));
    let fits = |number: usize| kept.binary_search(&number).is_ok_and(|place| in_time[place]);
    let sifted = |number: usize| match beaten[number] {
        Some(rival) => Sifted::LeftOut(Skip::Pruned, pruned_words(&probed[number], &probed[rival])),
        None if fits(number) => Sifted::Worth,
        None => {
            let needed = probed[number].cost_seconds;
            Sifted::LeftOut(
                Skip::TimeBudget,
                format!("time budget: it would take {needed:.1} s, and others came first"),
            )
        }
    };
    (0..probed.len()).map(sifted).collect()
}

/// `pruned: a probe found recall 0.9012 at 1200 queries/s, and search_list=40 has 0.9533 at 2100`.
fn pruned_words(one: &Probed, rival: &Probed) -> String {
    let recall = |probed: &Probed| stats::mean(&probed.recalls).unwrap_or(0.0);
    format!(
        "pruned: a probe found recall {:.4} at {:.0} queries/s, and {} has {:.4} at {:.0}",
        recall(one),
        one.qps,
        rival.name,
        recall(rival),
        rival.qps
    )
}

/// For each setting one that beats it in recall and in rate by more than the noise, if any does. `spread` is that of the
/// noise check. The fastest and the most accurate of a group are never beaten.
fn dominated(probed: &[Probed], spread: f64) -> Vec<Option<usize>> {
    let margin = LEAST_MARGIN.max(2.0 * spread);
    let beats = |other: &Probed, one: &Probed| {
        other.group == one.group && other.qps > one.qps * (1.0 + margin) && surely_more(&other.recalls, &one.recalls)
    };
    (probed.iter().enumerate())
        .map(|(number, one)| {
            let rivals = probed.iter().enumerate().filter(|&(rival, other)| rival != number && beats(other, one));
            // The fastest of them is the best reason.
            rivals.max_by(|(_, a), (_, b)| a.qps.total_cmp(&b.qps)).map(|(rival, _)| rival)
        })
        .collect()
}

/// Whether the mean of `more` is above that of `less` by more than the queries' choice explains. Both answer the same
/// queries: the differences of pairs vary far less than recall does between queries.
fn surely_more(more: &[f64], less: &[f64]) -> bool {
    let differences: Vec<f64> = more.iter().zip(less).map(|(a, b)| a - b).collect();
    let Some(mean) = stats::mean(&differences) else { return false };
    let n = differences.len() as f64;
    let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    mean > 0.0 && mean > RECALL_ERRORS * (variance / n).sqrt()
}

/// Whether each setting is measured, so that all of those take `seconds` at most. They are taken spread over the whole
/// range of each group, ends first: half a sweep tells more than its first half.
fn within_budget(probed: &[Probed], seconds: f64) -> Vec<bool> {
    let mut order: Vec<(f64, usize)> = Vec::with_capacity(probed.len());
    let groups: std::collections::BTreeSet<usize> = probed.iter().map(|one| one.group).collect();
    for group in groups {
        let members: Vec<usize> = (0..probed.len()).filter(|&number| probed[number].group == group).collect();
        order.extend(spread_out(members.len()).into_iter().enumerate().map(|(turn, place)| {
            // Groups take turns, each as far along as the others.
            (turn as f64 / members.len() as f64, members[place])
        }));
    }
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut taken = vec![false; probed.len()];
    let mut left = seconds;
    for (_, number) in order {
        if probed[number].cost_seconds <= left {
            left -= probed[number].cost_seconds;
            taken[number] = true;
        }
    }
    taken
}

/// The places `0..n` in an order of which every beginning is spread over the whole: both ends, then the middle of the
/// widest gap, and so on.
pub(crate) fn spread_out(n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = [0, n.saturating_sub(1)].into_iter().filter(|&place| place < n).collect();
    order.dedup();
    let mut gaps = std::collections::VecDeque::from([(0, n.saturating_sub(1))]);
    while let Some((low, high)) = gaps.pop_front() {
        if high > low + 1 {
            let middle = low + (high - low) / 2;
            order.push(middle);
            gaps.extend([(low, middle), (middle, high)]);
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probed(recall: f64, qps: f64) -> Probed {
        // A hundred queries, of which a part finds everything.
        let recalls = (0..100).map(|query| if f64::from(query) < 100.0 * recall { 1.0 } else { 0.0 }).collect();
        Probed { name: format!("ef={qps}"), group: 0, recalls, qps, cost_seconds: 1.0 }
    }

    #[test]
    fn only_what_is_beaten_in_both_beyond_the_noise_goes() {
        let all = [
            probed(0.90, 1000.0),
            probed(0.95, 500.0),
            probed(0.80, 400.0), // beaten by both
            probed(0.93, 480.0), // slower by less than the noise
            probed(0.95, 300.0), // slower, and as accurate
            probed(0.99, 100.0),
        ];
        assert_eq!(dominated(&all, 0.0), [None, None, Some(0), None, None, None]);
        assert_eq!(dominated(&all, 1.0), [None; 6], "a machine that noisy tells nothing");
        let apart = [probed(0.90, 1000.0), Probed { group: 1, ..probed(0.5, 10.0) }];
        assert_eq!(dominated(&apart, 0.0), [None, None], "other modes and places are no rivals");
        assert_eq!(dominated(&[], 0.0), []);
    }

    #[test]
    fn recall_that_differs_by_chance_is_equal() {
        let alternating =
            |even: f64, odd: f64| (0..20).map(|i| if i % 2 == 0 { even } else { odd }).collect::<Vec<_>>();
        let (a, b) = (alternating(1.0, 0.0), alternating(0.0, 1.0));
        assert!(!surely_more(&a, &b) && !surely_more(&b, &a) && !surely_more(&a, &a) && !surely_more(&[], &[]));
        let more: Vec<f64> = a.iter().map(|recall| recall + 0.01).collect();
        assert!(surely_more(&more, &a), "every query is a little better");
    }

    #[test]
    fn what_is_left_out_says_why() {
        let all = [probed(0.90, 1000.0), probed(0.80, 400.0), probed(0.95, 300.0), probed(0.99, 100.0)];
        let sifted = sift(&all, true, 0.0, Some(Duration::from_secs_f64(2.5)));
        let reason = "pruned: a probe found recall 0.8000 at 400 queries/s, and ef=1000 has 0.9000 at 1000";
        assert_eq!(sifted[1], Sifted::LeftOut(Skip::Pruned, reason.into()));
        assert_eq!((&sifted[0], &sifted[3]), (&Sifted::Worth, &Sifted::Worth));
        assert!(matches!(&sifted[2], Sifted::LeftOut(Skip::TimeBudget, why) if why.starts_with("time budget")));
        assert_eq!(sift(&all, false, 0.0, None), [Sifted::Worth, Sifted::Worth, Sifted::Worth, Sifted::Worth]);
    }

    #[test]
    fn a_beginning_of_the_order_is_spread_over_the_whole() {
        assert_eq!(spread_out(9), [0, 8, 4, 2, 6, 1, 3, 5, 7]);
        for n in 0..40 {
            let mut order = spread_out(n);
            order.sort_unstable();
            assert_eq!(order, (0..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_budget_is_kept_and_spent_on_all_groups_alike() {
        let group = |group| (0..5).map(move |i| Probed { group, ..probed(0.9, f64::from(i)) });
        let all: Vec<Probed> = group(0).chain(group(1)).collect();
        let taken = |seconds| within_budget(&all, seconds);
        assert_eq!(taken(0.0), [false; 10]);
        assert_eq!(taken(100.0), [true; 10]);
        let few: Vec<usize> = taken(4.5).iter().enumerate().filter(|(_, t)| **t).map(|(i, _)| i).collect();
        assert_eq!(few, [0, 4, 5, 9], "both ends of both");
    }
}
