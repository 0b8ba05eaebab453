//! Which settings are worth timing: the least of each kind that reach a target.
//!
//! In: bounds, a target, and a probe that tells a setting's recall. Out: settings that reach it, few enough to time
//! all. Recall grows with every parameter here, so that the least value is found by doubling and bisection, and what
//! one rerank needs bounds what a smaller one needs.

use kiln_builder::{Effort, Navigate};

use super::SampleRecall;

/// The largest search list tried, as a multiple of k (of 10 where k is smaller): a search of that list costs about as
/// much as scanning a small index.
const LARGEST_LIST_FACTOR: usize = 400;

/// Lists timed beside the least that reaches, as parts of it: another list may suit the machine better.
const NEIGHBOURS: [f64; 2] = [1.05, 1.10];

/// Reranks tried, as multiples of k.
const RERANK_FACTORS: [usize; 9] = [256, 128, 64, 32, 16, 8, 4, 2, 1];

/// How many times more lists than the largest rerank needs a smaller one may scan: past that, re-ranking less never
/// pays for scanning more.
const MORE_LISTS: usize = 4;

/// Two doublings that gain less mean recall than this, and less than what is missing, will not be followed by one that
/// gains more.
const PLATEAU: f64 = 1e-3;

/// What limits the settings of a graph.
pub(super) struct GraphBounds<'a> {
    /// Neighbours wanted.
    pub k: usize,
    /// Rows.
    pub n: usize,
    /// Ways to navigate.
    pub navigate: &'a [Navigate],
}

/// For each way to navigate, the least search list that reaches `target` and a few above it.
pub(super) fn graph<E>(
    bounds: &GraphBounds<'_>,
    target: f64,
    probe: &mut impl FnMut(Effort) -> Result<SampleRecall, E>,
) -> Result<Vec<Effort>, E> {
    let first = bounds.k.min(bounds.n).max(1);
    let last = (LARGEST_LIST_FACTOR * bounds.k.max(10)).clamp(first, bounds.n.max(first));
    let mut efforts = Vec::new();
    for &navigate in bounds.navigate {
        let mut at = |search_list| probe(Effort::Graph { search_list, navigate });
        let Some(least) = least(first, last, target, &mut at)? else { continue };
        let mut lists = vec![least];
        for factor in NEIGHBOURS {
            let list = ((least as f64 * factor).ceil() as usize).min(last);
            if !lists.contains(&list) && at(list)?.reaches(target) {
                lists.push(list);
            }
        }
        efforts.extend(lists.into_iter().map(|search_list| Effort::Graph { search_list, navigate }));
    }
    Ok(efforts)
}

/// What limits the settings of inverted lists.
pub(super) struct ListBounds {
    /// Neighbours wanted.
    pub k: usize,
    /// Rows.
    pub n: usize,
    /// Lists.
    pub nlist: usize,
}

/// For each rerank that can reach `target`, the least number of lists that does; the smallest rerank of equal numbers.
pub(super) fn lists<E>(
    bounds: &ListBounds,
    target: f64,
    probe: &mut impl FnMut(Effort) -> Result<SampleRecall, E>,
) -> Result<Vec<Effort>, E> {
    let mut reranks: Vec<usize> = RERANK_FACTORS.iter().map(|f| f.saturating_mul(bounds.k).min(bounds.n)).collect();
    reranks.dedup();
    let mut efforts = Vec::new();
    let (mut first, mut last) = (1, bounds.nlist.max(1));
    for rerank in reranks {
        let mut at = |nprobe| probe(Effort::Lists { nprobe, rerank });
        // Where one rerank fails, so do all smaller ones.
        let Some(nprobe) = least(first, last, target, &mut at)? else { break };
        if efforts.is_empty() {
            last = last.min(nprobe.saturating_mul(MORE_LISTS));
        }
        if nprobe == first {
            // Of as many lists the smaller rerank costs less for sure.
            efforts.pop();
        }
        first = nprobe;
        efforts.push(Effort::Lists { nprobe, rerank });
    }
    Ok(efforts)
}

/// The least value of `first..=last` that reaches `target`, where recall grows with the value; `None` where none does,
/// or where it stops growing before that.
fn least<E>(
    first: usize,
    last: usize,
    target: f64,
    at: &mut impl FnMut(usize) -> Result<SampleRecall, E>,
) -> Result<Option<usize>, E> {
    // Up by doubling ...
    let (mut below, mut value) = (None, first);
    let mut seen: Vec<f64> = Vec::new();
    loop {
        let found = at(value)?;
        if found.reaches(target) {
            break;
        }
        let gained = seen.iter().rev().nth(1).map_or(f64::INFINITY, |before| found.recall - before);
        if value >= last || (gained < PLATEAU && gained < target - found.recall) {
            return Ok(None);
        }
        seen.push(found.recall);
        (below, value) = (Some(value), value.saturating_mul(2).min(last));
    }
    // ... then between the last that failed and the first that did not.
    let Some(mut fails) = below else { return Ok(Some(value)) };
    while value - fails > 1 {
        let middle = fails + (value - fails) / 2;
        if at(middle)?.reaches(target) { value = middle } else { fails = middle }
    }
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn sure(recall: f64) -> Result<SampleRecall, Infallible> {
        Ok(SampleRecall { queries: 100, recall, lo: recall, hi: recall })
    }

    /// Finds the least value, and counts the probes.
    fn found(first: usize, last: usize, target: f64, recall: impl Fn(usize) -> f64) -> (Option<usize>, usize) {
        let mut probes = 0;
        let Ok(value) = least(first, last, target, &mut |value| {
            probes += 1;
            sure(recall(value))
        });
        (value, probes)
    }

    #[test]
    fn the_least_value_is_found_in_few_steps() {
        for least in [1usize, 2, 10, 11, 63, 64, 65, 999, 1000] {
            let (value, probes) =
                found(1, 1000, 0.9, |value| if value >= least { 0.95 } else { 0.8 * value as f64 / least as f64 });
            assert_eq!(value, Some(least));
            assert!(probes <= 20, "{least}: {probes} probes");
        }
        assert_eq!(found(10, 1000, 0.9, |_| 0.99), (Some(10), 1));
        assert_eq!(found(5, 5, 0.9, |_| 0.1), (None, 1));
    }

    #[test]
    fn a_plateau_ends_the_climb_and_slow_growth_does_not() {
        let (value, probes) = found(1, 1 << 20, 0.9, |value| 0.8 - 0.3 / value as f64);
        assert!(value.is_none() && probes < 15, "{probes}");
        // As inverted lists on hard data: each doubling finds as much again.
        let (value, _) = found(1, 1 << 20, 0.9, |value| (value as f64 * 1e-3).min(1.0));
        assert_eq!(value, Some(900));
    }

    #[test]
    fn every_navigation_gets_its_own_list_and_neighbours_that_reach() {
        let bounds = GraphBounds { k: 10, n: 100_000, navigate: &[Navigate::Exact, Navigate::Codes] };
        let Ok(efforts) = graph(&bounds, 0.95, &mut |effort| {
            let Effort::Graph { search_list, navigate } = effort else { unreachable!() };
            sure(1.0 - if navigate == Navigate::Exact { 2.0 } else { 4.0 } / search_list as f64)
        });
        let of = |navigate, lists: [usize; 3]| lists.map(|search_list| Effort::Graph { search_list, navigate });
        assert_eq!(efforts, [of(Navigate::Exact, [40, 42, 44]), of(Navigate::Codes, [80, 84, 88])].concat());
        // A way that never gets there is left out; a small index bounds the list.
        let tiny = GraphBounds { n: 12, ..bounds };
        let Ok(efforts) = graph(&tiny, 0.95, &mut |effort| {
            let Effort::Graph { search_list, navigate } = effort else { unreachable!() };
            sure(if navigate == Navigate::Exact && search_list == 12 { 1.0 } else { 0.9 })
        });
        assert_eq!(efforts, [Effort::Graph { search_list: 12, navigate: Navigate::Exact }]);
    }

    #[test]
    fn smaller_reranks_scan_more_lists_until_none_helps() {
        let bounds = ListBounds { k: 10, n: 1_000_000, nlist: 1024 };
        // Re-ranking 40 of them needs half as many lists again, 20 needs far more, 10 never suffices.
        let mut probes = 0;
        let Ok(efforts) = lists(&bounds, 0.9, &mut |effort| {
            probes += 1;
            let Effort::Lists { nprobe, rerank } = effort else { unreachable!() };
            let needed = match rerank {
                80.. => 20,
                40.. => 30,
                20.. => 200,
                _ => usize::MAX,
            };
            sure(if nprobe >= needed { 0.95 } else { 0.8 * nprobe as f64 / needed as f64 })
        });
        let expected = [(80, 20), (40, 30)];
        assert_eq!(efforts, expected.map(|(rerank, nprobe)| Effort::Lists { nprobe, rerank }));
        assert!(probes < 30, "{probes}");
        let Ok(none) = lists(&bounds, 0.9, &mut |_| sure(0.3));
        assert!(none.is_empty());
    }
}
