//! The product-quantised codes of a `compact` graph, in memory.
//!
//! In: sections `codec` and `codes`. Out: estimated distances of nodes to a query, and where a search on the drive starts:
//! about the nearest of a sample of nodes. The sample is grouped by the nearest of a few of its own, and a search scores
//! those and the groups of the nearest of them, all by codes: that costs less than the reads that it saves (736,862 rows:
//! 1.8 pages a query against the graph's entry alone). Codes tell all that this takes, so nothing of it is stored.

use std::ops::Range;

use kiln_kernels::distance::{inverse_norm, prefetch};
use kiln_kernels::pq::ProductQuantizer;
use kiln_kernels::{Lists, Metric, RowsView, Scored, TopK};

use crate::error::BuilderError;
use crate::file::Section;
use crate::file::pages::AlignedBytes;
use crate::file::reader::IndexFile;
use crate::quantiser::sample_rows;

/// Nodes sampled: one in so many, at most and at least so many.
const NODES_A_SAMPLED: usize = 90;
const SAMPLE: usize = 8192;
const SAMPLE_OF_FEW: usize = 16;

/// Sampled nodes a group, and groups that a search scores.
const GROUP: usize = 64;
const GROUPS_SCORED: usize = 6;

/// Any number: the sample must be the same at each opening.
const SEED: u64 = 1;

/// Product-quantised codes in memory.
pub(super) struct Codes {
    pq: ProductQuantizer,
    codes: AlignedBytes,
    metric: Metric,
    sample: Sample,
}

/// Nodes with their codes side by side.
#[derive(Default)]
struct Coded {
    nodes: Vec<u32>,
    codes: Vec<u8>,
}

/// The sampled nodes.
#[derive(Default)]
struct Sample {
    /// Those by which the others are grouped.
    pivots: Coded,
    /// All of them, group by group.
    members: Coded,
    /// Where each group begins, and the last ends.
    starts: Vec<usize>,
}

/// A query's look-up table.
pub(super) struct CodesQuery(Vec<f32>);

impl Codes {
    /// Reads the codes of an index of `n` rows of `dim` coordinates.
    pub(super) fn read(file: &IndexFile, n: u32, dim: usize, metric: Metric) -> Result<Self, BuilderError> {
        let damaged = |problem: String| BuilderError::damaged(file.path(), problem);
        let pq = ProductQuantizer::from_bytes(file.section(Section::Codec)?.as_slice()).map_err(damaged)?;
        let codes = file.section(Section::Codes)?;
        let (width, n) = (pq.code_bytes(), n as usize);
        if codes.as_slice().len() != n * width || pq.dim() != dim {
            let (found, expected) = (codes.as_slice().len(), n * width);
            return Err(damaged(format!("section codes has {found} bytes, {expected} expected")));
        }
        let mut codes = Self { pq, codes, metric, sample: Sample::default() };
        codes.sample = codes.sample(n);
        Ok(codes)
    }

    /// Samples nodes of `n`, and groups them.
    fn sample(&self, n: usize) -> Sample {
        let number = (n / NODES_A_SAMPLED).clamp(SAMPLE_OF_FEW, SAMPLE);
        let sampled: Vec<u32> = sample_rows(n, number, SEED).into_iter().map(|at| at as u32).collect();
        let all = self.coded(sampled.clone());
        let pivots = self.coded(sampled.iter().copied().step_by(GROUP).collect());
        let mut nearest = vec![Scored { distance: f32::INFINITY, id: 0 }; sampled.len()];
        for (pivot, &node) in pivots.nodes.iter().enumerate() {
            let table = CodesQuery(self.pq.l2_table(&self.decoded(node)));
            let mut at = nearest.iter_mut();
            self.score_coded(&table, &all, 0..sampled.len(), |distance, _| {
                let best = at.next().expect("one for each sampled node");
                *best = (*best).min(Scored { distance, id: pivot as u32 });
            });
        }
        let groups: Vec<u32> = nearest.iter().map(|nearest| nearest.id).collect();
        let grouped = Lists::grouped(&groups, pivots.nodes.len());
        let members = self.coded(grouped.items.iter().map(|&at| sampled[at as usize]).collect());
        Sample { pivots, members, starts: grouped.offsets }
    }

    fn coded(&self, nodes: Vec<u32>) -> Coded {
        let codes = nodes.iter().flat_map(|&node| self.code(node)).copied().collect();
        Coded { nodes, codes }
    }

    /// A node's code as the row that it stands for, rotated as the codes are.
    fn decoded(&self, node: u32) -> Vec<f32> {
        let mut row = Vec::with_capacity(self.pq.dim());
        for sub in 0..self.pq.m() {
            let width = self.pq.subspace(sub).len();
            let centroid = self.pq.code_at(self.code(node), sub);
            row.extend_from_slice(&self.pq.subspace_centroids(sub)[centroid * width..][..width]);
        }
        row
    }

    /// Scores some of the nodes whose codes lie side by side, in order.
    fn score_coded(&self, query: &CodesQuery, coded: &Coded, some: Range<usize>, mut each: impl FnMut(f32, u32)) {
        let width = self.pq.code_bytes();
        let (fours, rest) = coded.nodes[some.clone()].as_chunks::<4>();
        let mut codes = coded.codes[some.start * width..some.end * width].chunks_exact(width);
        let mut next = || codes.next().expect("a code for each node");
        for four in fours {
            let distances = self.pq.score_four(&query.0, [next(), next(), next(), next()]);
            distances.into_iter().zip(four).for_each(|(distance, &node)| each(distance, node));
        }
        for &node in rest {
            each(self.pq.score(&query.0, next()), node);
        }
    }

    /// Bytes of the codes.
    pub(super) fn code_bytes(&self) -> u64 {
        self.codes.as_slice().len() as u64
    }

    /// Bytes of the sample.
    pub(super) fn sample_bytes(&self) -> u64 {
        let Sample { pivots, members, starts } = &self.sample;
        let coded = |coded: &Coded| 4 * coded.nodes.len() + coded.codes.len();
        (coded(pivots) + coded(members) + 8 * starts.len()) as u64
    }

    /// The look-up table of `query` `(1, dim)`: one a search.
    pub(super) fn prepare(&self, query: &RowsView<'_>) -> CodesQuery {
        let mut query = query.to_f32().into_raw_vec_and_offset().0;
        CodesQuery(match self.metric {
            Metric::L2 => self.pq.l2_table(&self.pq.rotate(&query)),
            Metric::InnerProduct => self.pq.dot_table(&self.pq.rotate(&query)),
            Metric::Cosine => {
                let inverse = inverse_norm(&query);
                query.iter_mut().for_each(|x| *x *= inverse);
                self.pq.l2_table(&self.pq.rotate(&query))
            }
        })
    }

    #[inline(always)]
    fn code(&self, node: u32) -> &[u8] {
        let width = self.pq.code_bytes();
        &self.codes.as_slice()[node as usize * width..][..width]
    }

    /// Navigation distance of a node.
    #[inline(always)]
    pub(super) fn score(&self, query: &CodesQuery, node: u32) -> f32 {
        self.pq.score(&query.0, self.code(node))
    }

    /// Appends those of `nodes` to `found` that are nearer than `bound`; all where that is infinite, though codes that
    /// overflowed tell nothing of some.
    pub(super) fn score_below(&self, query: &CodesQuery, nodes: &[u32], bound: f32, found: &mut Vec<Scored>) {
        for &node in nodes {
            prefetch(self.code(node));
        }
        let (fours, rest) = nodes.as_chunks::<4>();
        let mut push = |distance: f32, id: u32| {
            if distance < bound || bound == f32::INFINITY {
                found.push(Scored { distance, id });
            }
        };
        for four in fours {
            let distances = self.pq.score_four(&query.0, four.map(|node| self.code(node)));
            distances.into_iter().zip(four).for_each(|(distance, &id)| push(distance, id));
        }
        rest.iter().for_each(|&node| push(self.score(query, node), node));
    }

    /// Appends the graph's entry, from which all nodes are reached, and the nearest that was found of the sample; returns
    /// how many were scored.
    pub(super) fn enter(&self, query: &CodesQuery, entry: u32, found: &mut Vec<Scored>) -> usize {
        found.push(Scored { distance: self.score(query, entry), id: entry });
        let Sample { pivots, members, starts } = &self.sample;
        let mut groups = TopK::new(GROUPS_SCORED);
        let mut group = 0;
        self.score_coded(query, pivots, 0..pivots.nodes.len(), |distance, _| {
            groups.push(Scored { distance, id: group });
            group += 1;
        });
        let mut scored = 1 + pivots.nodes.len();
        let mut nearest: Option<Scored> = None;
        for group in groups.drain_sorted() {
            let some = starts[group.id as usize]..starts[group.id as usize + 1];
            scored += some.len();
            self.score_coded(query, members, some, |distance, id| {
                nearest = Some(nearest.map_or(Scored { distance, id }, |nearest| nearest.min(Scored { distance, id })));
            });
        }
        found.extend(nearest.filter(|nearest| nearest.id != entry));
        scored
    }
}
