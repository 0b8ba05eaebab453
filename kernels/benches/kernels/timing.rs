//! Medians of many short samples: what interrupts a few of them does not count.

use std::ops::Range;
use std::time::Instant;

/// How long to measure.
#[derive(Debug, Clone, Copy)]
pub enum Budget {
    /// One call and no more: does it run?
    Once,
    /// About so long.
    Seconds(f64),
}

/// Seconds a call.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Of all samples.
    pub median: f64,
    /// Lower quartile.
    pub low: f64,
    /// Upper quartile.
    pub high: f64,
    /// Of the fastest sample: what disturbs a peak only lowers it.
    pub least: f64,
}

/// A sample lasts at least so long, in seconds, that reading the clock costs nothing.
const SAMPLE: f64 = 2e-4;

/// Times calls of `work`.
pub fn time(budget: Budget, mut work: impl FnMut()) -> Timing {
    let started = Instant::now();
    work();
    let once = started.elapsed().as_secs_f64();
    let Budget::Seconds(budget) = budget else { return Timing { median: once, low: once, high: once, least: once } };
    let mut calls = 1u32;
    let mut sample = |calls: u32| {
        let started = Instant::now();
        (0..calls).for_each(|_| work());
        started.elapsed().as_secs_f64()
    };
    while sample(calls) < SAMPLE {
        calls *= 2;
    }
    let started = Instant::now();
    let mut samples = Vec::new();
    while samples.len() < 5 || started.elapsed().as_secs_f64() < budget {
        samples.push(sample(calls) / f64::from(calls));
    }
    samples.sort_by(f64::total_cmp);
    let at = |share: f64| samples[((samples.len() - 1) as f64 * share) as usize];
    Timing { median: at(0.5), low: at(0.25), high: at(0.75), least: samples[0] }
}

/// Successive stretches of an array larger than the caches: calls stay short, and each finds nothing in a cache.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    len: usize,
    step: usize,
    first: usize,
}

impl Windows {
    /// Windows of `step` of `len` elements.
    pub fn new(len: usize, step: usize) -> Self {
        Self { len, step: step.min(len), first: 0 }
    }

    /// The next window; after the last comes the first.
    pub fn advance(&mut self) -> Range<usize> {
        let range = self.first..self.first + self.step;
        self.first = if range.end + self.step > self.len { 0 } else { range.end };
        range
    }
}

/// Elements that begin at a cache line, as an allocation alone does not promise.
#[derive(Debug, Clone)]
pub struct Aligned<T> {
    elements: Vec<T>,
    first: usize,
}

impl<T: Copy> Aligned<T> {
    /// A copy of `from`.
    pub fn new(from: &[T]) -> Self {
        let mut elements: Vec<T> = Vec::with_capacity(from.len() + 64 / size_of::<T>());
        let first = elements.as_ptr().align_offset(64);
        elements.extend(from.iter().take(1).cycle().take(first).chain(from));
        Self { elements, first }
    }

    /// The elements.
    pub fn get(&self) -> &[T] {
        &self.elements[self.first..]
    }
}
