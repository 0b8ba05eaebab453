//! Which clusters of the first split every row belongs to, and what else the second pass over the rows tells.

use std::ops::Range;

use kiln_datasets::gather_rows;
use kiln_kernels::distance::{GraphAux, GraphGeometry, Isa, Kernels, QueryGeometry, inverse_norm};
use kiln_kernels::{Backend, Lists, Metric, Rows, Scored, dispatch_rows};
use ndarray::ArrayView2;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::leaves::joined;
use super::spill::id_bytes;
use super::summary::Summary;
use super::{Build, Keys, words};
use crate::durable::{Artifact, Unit};
use crate::error::BuilderError;
use crate::resources::Stopwatch;
use crate::vamana::split::{FANOUT, by_region, first_leaders};

pub(super) const STAGE: &str = "assign";
pub(super) const MIDDLE: &str = "middle";

/// Segments of a unit. Homes by row, u16; where each cluster's members begin, u32; members by cluster, as places among the
/// unit's rows, each in as few bytes as the largest takes.
const NEAREST: usize = 0;
const HOMES: usize = 1;
const OFFSETS: usize = 2;
const MEMBERS: usize = 3;

/// The entry, and how far rows lie from it and from the mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Middle {
    /// The row nearest to the mean.
    pub entry: u32,
    /// Distance from there to the farthest of the sample.
    pub reach: f32,
    /// The largest distance from the mean, or under inner product the largest norm.
    pub radius: f32,
}

/// What a unit's rows tell of the middle.
#[derive(Serialize, Deserialize)]
struct UnitMiddle {
    distance: f32,
    row: u32,
    largest_squared: f32,
}

/// Members of clusters, unit by unit.
pub(super) struct Members {
    units: Vec<(Artifact, Vec<u32>)>,
    unit_rows: usize,
    pub clusters: usize,
}

impl<B: Backend> Build<'_, B> {
    /// Finds the clusters of all rows, where that is not done.
    pub(super) fn assign(&self, keys: &Keys, summary: &Summary, watch: &mut Stopwatch<'_>) -> Result<(), BuilderError> {
        if self.all(STAGE, &keys.assign, self.plan.units) {
            return Ok(());
        }
        watch.stage("partition", self.n() as u64);
        let n = self.n();
        let leaders = first_leaders(n, self.params.seed);
        let ids: Vec<u64> = leaders.iter().map(|&row| u64::from(row)).collect();
        let leader_rows = gather_rows(self.source, &ids)?;
        // By number among the leaders: ties fall as they do among row numbers, which ascend alike.
        let numbers: Vec<u32> = (0..leaders.len() as u32).collect();
        let resident = self.upload(leader_rows.clone(), &summary.whole)?;
        let mut cluster = vec![0u32; leaders.len()];
        for (at, leader) in by_region(self.backend, &resident, &numbers)?.into_iter().enumerate() {
            cluster[leader as usize] = at as u32;
        }
        drop(resident);
        self.each_missing(STAGE, &keys.assign, self.plan.units, |unit| {
            self.assign_unit(unit, keys, summary, &leader_rows, &cluster)
        })
    }

    fn assign_unit(
        &self,
        unit: Unit,
        keys: &Keys,
        summary: &Summary,
        leaders: &Rows,
        cluster: &[u32],
    ) -> Result<(), BuilderError> {
        let rows = self.plan.rows_of(unit.number, self.n());
        let fanout = FANOUT[0];
        let step = self.plan.read_rows(self.source.dim() * self.dtype().bytes());
        let (mut hash, mut clusters) = (Xxh3::new(), Vec::with_capacity(rows.len() * fanout));
        let (mut nearest, mut largest_squared) = (Vec::new(), 0f32);
        for first in rows.clone().step_by(step) {
            let block = self.source.read(first as u64..rows.end.min(first + step) as u64)?;
            hash.update(block.as_bytes());
            let count = block.len();
            let (near, squared) = dispatch_rows!(block.view(), v => self.about_middle(v, first, summary));
            nearest.extend(near);
            largest_squared = largest_squared.max(squared);
            let resident = self.upload(joined(block, leaders), &summary.whole)?;
            let numbers: Vec<u32> = (0..(count + leaders.len()) as u32).collect();
            let (of_block, of_leaders) = numbers.split_at(count);
            let found = self.backend.nearest_leaders(&resident, of_block, of_leaders, fanout)?;
            clusters.extend(found.into_iter().map(|leader| cluster[leader as usize - count]));
            self.progress.advance(count as u64);
        }
        self.refuse_changed(unit.number, hash.digest(), summary)?;
        let home = |clusters: &[u32]| u16::try_from(clusters[0]).expect("there are thousands of clusters at most");
        let homes: Vec<u16> = clusters.chunks_exact(fanout).map(home).collect();
        let grouped = Lists::grouped(&clusters, cluster.len());
        let offsets: Vec<u32> = grouped.offsets.iter().map(|&offset| offset as u32).collect();
        let width = id_bytes(self.plan.unit_rows);
        let mut members = Vec::with_capacity(grouped.items.len() * width);
        for &place in &grouped.items {
            members.extend_from_slice(&(place / fanout as u32).to_le_bytes()[..width]);
        }
        let nearest = nearest.into_iter().min().unwrap_or(Scored { distance: f32::INFINITY, id: 0 });
        let middle = UnitMiddle { distance: nearest.distance, row: nearest.id, largest_squared };
        let mut writer = self.store.begin(unit)?;
        writer.segment(&serde_json::to_vec(&middle).expect("numbers are plain data"))?;
        writer.segment(bytemuck::cast_slice(&homes))?;
        writer.segment(bytemuck::cast_slice(&offsets))?;
        writer.segment(&members)?;
        writer.commit(&keys.assign, &self.backend.describe())
    }

    /// Refuses the rows of a unit, in their own order, that are not those of which there is a summary.
    pub(super) fn refuse_changed(&self, number: u32, hash: u64, summary: &Summary) -> Result<(), BuilderError> {
        if hash == summary.numbers.hashes[number as usize] {
            return Ok(());
        }
        let rows = self.plan.rows_of(number, self.n());
        let anew = if self.store.is_shared() { "plan it anew in another place" } else { "add --restart to begin anew" };
        Err(BuilderError::Mismatch(format!(
            "{}: rows {} to {} changed since they were first read; leave the data set alone while it is built, and {anew}",
            self.source.path().display(),
            rows.start,
            rows.end - 1
        )))
    }

    /// The row nearest to the mean, as `insert::medoid` finds it, and the largest square of `build::mean_and_radius`.
    fn about_middle<T: Kernels>(
        &self,
        rows: ArrayView2<'_, T>,
        first: usize,
        summary: &Summary,
    ) -> (Option<Scored>, f32) {
        let (mean, center) = (&summary.numbers.mean, &summary.numbers.center);
        let mean_inverse = inverse_norm(mean);
        let cosine = self.metric == Metric::Cosine;
        let metric = if cosine { Metric::Cosine } else { Metric::L2 };
        let geometry = QueryGeometry::<f32, T>::widened(metric, Isa::best());
        let from = |i: usize| if self.metric == Metric::InnerProduct { 0.0 } else { center[i] };
        let of_row = |i: usize| {
            let row = rows.row(i).to_slice().expect("rows are contiguous by construction");
            let inverse = if cosine { inverse_norm(row) } else { 1.0 };
            let distance = geometry.distance(mean, mean_inverse, row, inverse);
            let off = |(i, x): (usize, &T)| {
                let off = x.to_f32() * inverse - from(i);
                off * off
            };
            let squared = row.iter().enumerate().map(off).sum::<f32>();
            (Some(Scored { distance, id: (first + i) as u32 }), squared)
        };
        let nearer = |a: Option<Scored>, b: Option<Scored>| [a, b].into_iter().flatten().min();
        let both = |a: (Option<Scored>, f32), b: (Option<Scored>, f32)| (nearer(a.0, b.0), a.1.max(b.1));
        (0..rows.nrows()).into_par_iter().map(of_row).reduce(|| (None, 0.0), both)
    }

    /// The entry and what is measured from it.
    pub(super) fn middle(
        &self,
        keys: &Keys,
        summary: &Summary,
        watch: &mut Stopwatch<'_>,
    ) -> Result<Middle, BuilderError> {
        let unit = Unit { stage: MIDDLE, number: 0 };
        if self.store.has(unit, &keys.middle) {
            let json = self.store.read(&self.store.open_unit(unit)?, 0)?;
            let spoiled =
                |_| BuilderError::Spoiled { path: self.store.folder().join(MIDDLE), stage: MIDDLE, number: 0 };
            return serde_json::from_slice(&json).map_err(spoiled);
        }
        self.assign(keys, summary, watch)?;
        let (mut nearest, mut largest_squared) = (Vec::new(), 0f32);
        for number in 0..self.plan.units {
            let unit = Unit { stage: STAGE, number };
            let json = self.store.read(&self.store.open_unit(unit)?, NEAREST)?;
            let spoiled = |_| BuilderError::Spoiled { path: self.store.folder().join(STAGE), stage: STAGE, number };
            let middle: UnitMiddle = serde_json::from_slice(&json).map_err(spoiled)?;
            nearest.push(Scored { distance: middle.distance, id: middle.row });
            largest_squared = largest_squared.max(middle.largest_squared);
        }
        let entry = nearest.into_iter().min().map_or(0, |nearest| nearest.id);
        let entry_row = gather_rows(self.source, &[u64::from(entry)])?;
        let reach = dispatch_rows!(summary.whole.sample().view(), v => self.reach(v, &entry_row, summary));
        let middle = Middle { entry, reach, radius: largest_squared.sqrt() };
        let mut writer = self.store.begin(unit)?;
        writer.segment(&serde_json::to_vec(&middle).expect("numbers are plain data"))?;
        writer.commit(&keys.middle, "host")?;
        Ok(middle)
    }

    /// The largest distance from the entry to a row of the sample.
    fn reach<T: Kernels>(&self, sample: ArrayView2<'_, T>, entry: &Rows, summary: &Summary) -> f32 {
        let largest = summary.whole.largest_squared();
        let entry = T::view(&entry.view()).expect("all rows are of one type");
        let (aux, entry_aux) =
            (GraphAux::of_part(sample, self.metric, largest), GraphAux::of_part(entry, self.metric, largest));
        let (geometry, of_entry) =
            (GraphGeometry::<T>::new(&aux, Isa::best()), GraphGeometry::<T>::new(&entry_aux, Isa::best()));
        let entry = entry.row(0).to_slice().expect("rows are contiguous by construction");
        let distance = |i: usize| {
            let row = sample.row(i).to_slice().expect("rows are contiguous by construction");
            geometry.distance(entry, of_entry.aux(0), row, geometry.aux(i))
        };
        (0..sample.nrows()).map(distance).fold(0f32, f32::max)
    }

    /// The home cluster of every row.
    pub(super) fn homes(&self) -> Result<Vec<u32>, BuilderError> {
        let mut homes = Vec::with_capacity(self.n());
        for number in 0..self.plan.units {
            let artifact = self.store.open_unit(Unit { stage: STAGE, number })?;
            let of_unit = self.store.read(&artifact, HOMES)?;
            homes.extend(of_unit.as_chunks::<2>().0.iter().map(|&home| u32::from(u16::from_le_bytes(home))));
        }
        Ok(homes)
    }

    /// The members of all clusters, left on the drive.
    pub(super) fn members(&self) -> Result<Members, BuilderError> {
        let mut units = Vec::new();
        for number in 0..self.plan.units {
            let artifact = self.store.open_checked(Unit { stage: STAGE, number })?;
            let offsets = words(&self.store.read(&artifact, OFFSETS)?);
            units.push((artifact, offsets));
        }
        let clusters = units.first().map_or(0, |(_, offsets)| offsets.len() - 1);
        Ok(Members { units, unit_rows: self.plan.unit_rows, clusters })
    }
}

impl Members {
    /// How many members a cluster has.
    pub(super) fn count(&self, cluster: usize) -> usize {
        self.units.iter().map(|(_, offsets)| (offsets[cluster + 1] - offsets[cluster]) as usize).sum()
    }

    /// The members of each of some clusters, ascending.
    pub(super) fn of(&self, clusters: Range<usize>) -> Result<Lists<u32>, BuilderError> {
        let mut lists: Vec<Vec<u32>> =
            clusters.clone().map(|cluster| Vec::with_capacity(self.count(cluster))).collect();
        let width = id_bytes(self.unit_rows);
        for (unit, (artifact, offsets)) in self.units.iter().enumerate() {
            let first = offsets[clusters.start];
            let mut bytes = vec![0; width * (offsets[clusters.end] - first) as usize];
            artifact.read_at(MEMBERS, &mut bytes, width as u64 * u64::from(first))?;
            let row = |place: &[u8]| {
                let place = place.iter().rev().fold(0, |place, &byte| place << 8 | u32::from(byte));
                (unit * self.unit_rows) as u32 + place
            };
            for (list, cluster) in lists.iter_mut().zip(clusters.clone()) {
                let range = (offsets[cluster] - first) as usize..(offsets[cluster + 1] - first) as usize;
                list.extend(bytes[range.start * width..range.end * width].chunks_exact(width).map(row));
            }
        }
        Ok(lists.into_iter().collect())
    }
}
