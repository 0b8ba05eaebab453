//! What this machine can do on one thread: bytes a second from each level of memory, operations a second in registers.
//!
//! Both sides of a roofline (Williams, Waterman and Patterson, CACM 2009), measured by loops that do nothing else.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::hint::black_box;

use kiln_kernels::distance::Isa;

use crate::timing::{Aligned, Budget, Windows, time};

/// Bytes of memory that one call moves: milliseconds would be interrupted on a busy machine.
const WINDOW: usize = 1 << 20;

/// Where the bytes of a case lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// 16 KiB.
    L1,
    /// 512 KiB.
    L2,
    /// 8 MiB.
    L3,
    /// 128 MiB, a stretch of 1 MiB a call: nothing of it is still in a cache when its turn comes again.
    Memory,
}

impl Store {
    /// All of them.
    pub const ALL: [Store; 4] = [Store::L1, Store::L2, Store::L3, Store::Memory];

    /// As in the table.
    pub fn name(self) -> &'static str {
        ["L1", "L2", "L3", "memory"][self as usize]
    }

    /// Bytes that are read to measure it; fewer in a smoke test.
    pub fn bytes(self, smoke: bool) -> usize {
        let bytes = [16 << 10, 512 << 10, 8 << 20, 128 << 20][self as usize];
        if smoke { bytes.min(64 << 10) } else { bytes }
    }
}

/// What a case computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// f32 multiply-adds, two operations each.
    F32,
    /// Products of bytes summed in i32 (`vpdpbusd`), two operations each.
    Int8,
    /// Products of 16-bit numbers summed in i32 (`vpdpwssd`): what differences of bytes need.
    Int16,
}

impl Unit {
    /// All of them.
    pub const ALL: [Unit; 3] = [Unit::F32, Unit::Int8, Unit::Int16];

    /// As in the table.
    pub fn name(self) -> &'static str {
        ["f32", "int8", "int16"][self as usize]
    }
}

/// Bytes and operations a second.
#[derive(Debug, Clone)]
pub struct Peaks {
    /// (what, bytes/s): STREAM's copy and triad, 128 MiB an array.
    pub stream: Vec<(&'static str, f64)>,
    /// Read bandwidth of each [`Store`].
    pub read: [f64; 4],
    /// (instruction set, unit, operations/s) of every set that this machine supports.
    pub compute: Vec<(&'static str, Unit, f64)>,
}

impl Peaks {
    /// Measures all on the calling thread; reads by the instruction set that kernels use.
    pub fn measure(isa: Isa, smoke: bool) -> Self {
        let budget = if smoke { Budget::Once } else { Budget::Seconds(0.15) };
        let len = Store::Memory.bytes(smoke) / 4;
        let (b, c) = (Aligned::new(&vec![1.5f32; len]), Aligned::new(&vec![2.5f32; len]));
        // Not zeros, which are pages that do not exist yet.
        let mut a = vec![0.5f32; len];
        let (b, c) = (b.get(), c.get());
        let mut windows = Windows::new(len, WINDOW / 4);
        let moved = WINDOW.min(4 * len) as f64;
        let copied = time(budget, || {
            let window = windows.advance();
            black_box(&mut a[window.clone()]).copy_from_slice(black_box(&b[window]));
        });
        let added = time(budget, || {
            let window = windows.advance();
            triad(black_box(&mut a[window.clone()]), black_box(&b[window.clone()]), black_box(&c[window]));
        });
        let stream = vec![("copy", 2.0 * moved / copied.least), ("triad", 3.0 * moved / added.least)];
        let read = Store::ALL.map(|store| {
            let len = store.bytes(smoke) / 4;
            let step = if store == Store::Memory { WINDOW / 4 } else { len };
            let (data, mut windows) = (Aligned::new(&b[..len]), Windows::new(len, step));
            let seconds = time(budget, || read_on(isa, black_box(&data.get()[windows.advance()]))).least;
            step.min(len) as f64 * 4.0 / seconds
        });
        let mut compute = Vec::new();
        for isa in Isa::supported() {
            for unit in Unit::ALL {
                let mut operations = 0.0;
                let seconds = time(budget, || operations = compute_on(isa, unit)).least;
                compute.push((isa.name(), unit, operations / seconds));
            }
        }
        Self { stream, read, compute }
    }

    /// The better of two measurements of each number.
    pub fn best(mut self, other: &Peaks) -> Self {
        self.stream.iter_mut().zip(&other.stream).for_each(|(a, b)| a.1 = a.1.max(b.1));
        self.read.iter_mut().zip(&other.read).for_each(|(a, b)| *a = a.max(*b));
        self.compute.iter_mut().zip(&other.compute).for_each(|(a, b)| a.2 = a.2.max(b.2));
        self
    }

    /// Operations a second of `unit` on `isa`.
    pub fn operations(&self, isa: Isa, unit: Unit) -> f64 {
        let found = self.compute.iter().find(|(name, u, _)| *name == isa.name() && *u == unit);
        found.map_or(f64::INFINITY, |found| found.2)
    }
}

fn triad(a: &mut [f32], b: &[f32], c: &[f32]) {
    a.iter_mut().zip(b.iter().zip(c)).for_each(|(a, (b, c))| *a = b + 3.0 * c);
}

/// Compiled once for each instruction set that calls it.
#[inline(always)]
fn read(data: &[f32]) {
    let mut sums = [0f32; 128];
    for chunk in data.as_chunks::<128>().0 {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x);
    }
    black_box(sums);
}

fn read_on(isa: Isa, data: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    match isa.name() {
        // SAFETY: an `Isa` is proof that its instructions are available.
        "avx512" => return unsafe { read_avx512(data) },
        // SAFETY: as above.
        "avx2" => return unsafe { read_avx2(data) },
        _ => {}
    }
    let _ = isa;
    read(data);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn read_avx512(data: &[f32]) {
    read(data);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn read_avx2(data: &[f32]) {
    read(data);
}

/// Chains of dependent multiply-adds: enough to hide their latency, few enough for sixteen registers. And how often each
/// goes round.
const CHAINS: usize = 12;
const ROUNDS: usize = 4096;

/// One loop of multiply-adds; returns the number of operations done.
fn compute_on(isa: Isa, unit: Unit) -> f64 {
    #[cfg(target_arch = "x86_64")]
    match (isa.name(), unit) {
        // SAFETY: an `Isa` is proof that its instructions are available.
        ("avx512", Unit::F32) => return unsafe { fma_avx512() },
        // SAFETY: as above.
        ("avx512", Unit::Int8) => return unsafe { int8_avx512() },
        // SAFETY: as above.
        ("avx512", Unit::Int16) => return unsafe { int16_avx512() },
        // SAFETY: as above.
        ("avx2", Unit::F32) => return unsafe { fma_avx2() },
        // SAFETY: as above.
        ("avx2", Unit::Int8) => return unsafe { int8_avx2() },
        // SAFETY: as above.
        ("avx2", Unit::Int16) => return unsafe { int16_avx2() },
        _ => {}
    }
    let _ = isa;
    match unit {
        Unit::F32 => portable::<f32>(1.5, |sum, x| sum * x + x),
        Unit::Int8 | Unit::Int16 => portable::<i32>(3, |sum, x| sum.wrapping_mul(x).wrapping_add(x)),
    }
}

/// What the compiler makes of a plain loop without any target feature.
fn portable<T: Copy + Default>(x: T, step: impl Fn(T, T) -> T) -> f64 {
    const LANES: usize = 4;
    let (x, mut sums) = (black_box(x), black_box([[T::default(); LANES]; CHAINS]));
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            for lane in sum {
                *lane = step(*lane, x);
            }
        }
    }
    black_box(sums);
    (2 * LANES * CHAINS * ROUNDS) as f64
}

/// Functions that update `CHAINS` registers over and over.
macro_rules! chains {
    ($(fn $name:ident($features:literal, $operations:expr, $zero:expr, |$sum:ident, $x:ident| $step:expr);)*) => {$(
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $features)]
        fn $name() -> f64 {
            let ($x, mut sums) = (black_box($zero), black_box([$zero; CHAINS]));
            for _ in 0..ROUNDS {
                for sum in &mut sums {
                    let $sum = *sum;
                    *sum = $step;
                }
            }
            black_box(sums);
            ($operations * CHAINS * ROUNDS) as f64
        }
    )*};
}

chains! {
    fn fma_avx512("avx512f", 2 * 16, _mm512_setzero_ps(), |sum, x| _mm512_fmadd_ps(sum, x, x));
    fn int8_avx512("avx512f,avx512vnni", 2 * 64, _mm512_setzero_si512(), |sum, x| _mm512_dpbusd_epi32(sum, x, x));
    fn int16_avx512("avx512f,avx512vnni", 2 * 32, _mm512_setzero_si512(), |sum, x| _mm512_dpwssd_epi32(sum, x, x));
    fn fma_avx2("avx2,fma", 2 * 8, _mm256_setzero_ps(), |sum, x| _mm256_fmadd_ps(sum, x, x));
    // Without VNNI: products in pairs, pairs of pairs, sums. The products take part of the sum, or they would be
    // computed once.
    fn int8_avx2("avx2", 2 * 32, _mm256_setzero_si256(), |sum, x| _mm256_add_epi32(
        sum,
        _mm256_madd_epi16(_mm256_maddubs_epi16(sum, x), x)
    ));
    fn int16_avx2("avx2", 2 * 16, _mm256_setzero_si256(), |sum, x| _mm256_add_epi32(
        sum,
        _mm256_madd_epi16(sum, x)
    ));
}
