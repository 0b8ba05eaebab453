//! The kernels, one list a subject. In: whether to be small. Out: cases that make their data when they are run.

mod codes;
mod rows;
mod sets;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::peaks::{Store, Unit};
use crate::{Case, Cost};

/// Every case. A smoke test takes as few rows as still mean something.
pub fn all(smoke: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    rows::add(smoke, &mut cases);
    sets::add(smoke, &mut cases);
    codes::add(smoke, &mut cases);
    cases
}

/// A case; `setup` returns the call to time.
fn case<F: FnMut() + 'static>(name: String, cost: Cost, setup: impl FnOnce() -> F + Send + 'static) -> Case {
    Case { name, cost, setup: Box::new(move || Box::new(setup())) }
}

/// What a call reads and computes.
fn cost(bytes: usize, store: Store, operations: usize, unit: Unit) -> Cost {
    Cost { bytes: bytes as f64, store, operations: operations as f64, unit }
}

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(1)
}

/// `n` numbers in -1..1; after the first 2^20 they repeat.
fn floats(n: usize) -> Vec<f32> {
    let mut rng = rng();
    let some: Vec<f32> = (0..n.min(1 << 20)).map(|_| 2.0 * rng.random::<f32>() - 1.0).collect();
    some.iter().copied().cycle().take(n).collect()
}
