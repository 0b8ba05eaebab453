//! Product quantisation (Jégou et al., TPAMI 2011), 8 or 4 bits a sub-space, with an optional rotation
//! (OPQ, Ge et al., CVPR 2013).
//!
//! In: rows as f32. Out: codes of `m` sub-spaces, and look-up tables that score a code by `m` additions.
//! Sub-spaces need not divide `dim`: the first `dim % m` hold one coordinate more.

mod tables;

use std::ops::Range;
use std::sync::Arc;

use faer::Mat;
use ndarray::{Array2, ArrayView2, s};
use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use crate::backend::{Backend, BackendError, MAX_DIM};
use crate::element::Element;
use crate::kmeans;
use crate::metric::Metric;

/// Width of one sub-space's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum CodeBits {
    /// 16 centroids a sub-space, two codes a byte (the even sub-space in the low half).
    Four,
    /// 256 centroids a sub-space.
    Eight,
}

impl CodeBits {
    /// Centroids of one sub-space.
    pub const fn centroids(self) -> usize {
        match self {
            CodeBits::Four => 16,
            CodeBits::Eight => 256,
        }
    }
}

impl From<CodeBits> for u8 {
    fn from(bits: CodeBits) -> u8 {
        match bits {
            CodeBits::Four => 4,
            CodeBits::Eight => 8,
        }
    }
}

impl TryFrom<u8> for CodeBits {
    type Error = String;

    fn try_from(bits: u8) -> Result<Self, String> {
        match bits {
            4 => Ok(CodeBits::Four),
            8 => Ok(CodeBits::Eight),
            other => Err(format!("{other} bits a code: use 4 or 8")),
        }
    }
}

/// A trained product quantiser.
#[derive(Debug, Clone, PartialEq)]
pub struct ProductQuantizer {
    dim: usize,
    m: usize,
    bits: CodeBits,
    /// Orthogonal `(dim, dim)`; codes describe `rotation * x`.
    rotation: Option<Array2<f32>>,
    /// For each sub-space in order: `(centroids, width)` row-major.
    centroids: Vec<f32>,
}

/// How training spends its time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PqTraining {
    /// Sub-spaces, 1 to dim.
    pub m: usize,
    /// Bits a sub-space.
    pub bits: CodeBits,
    /// Lloyd iterations a sub-space.
    pub iterations: usize,
    /// Seed of the initial centroids.
    pub seed: u64,
}

impl ProductQuantizer {
    /// Trains on `sample` `(n, dim)`, n >= 1, without a rotation.
    pub fn train<B: Backend>(
        backend: &B,
        sample: ArrayView2<'_, f32>,
        training: PqTraining,
    ) -> Result<Self, BackendError> {
        let (n, dim) = sample.dim();
        if n == 0 || training.m == 0 || training.m > dim {
            return Err(BackendError::Shape {
                operation: "pq training",
                expected: format!("at least one row and 1 to {dim} sub-spaces"),
                got: format!("{n} rows and m = {}", training.m),
            });
        }
        let ksub = training.bits.centroids();
        let mut centroids = Vec::with_capacity(ksub * dim);
        for sub in 0..training.m {
            let range = subspace(dim, training.m, sub);
            let points = f32::into_rows(sample.slice(s![.., range.clone()]).to_owned());
            let mut rng = ChaCha8Rng::seed_from_u64(training.seed ^ (sub as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let chosen = index::sample(&mut rng, n, ksub.min(n)).into_vec();
            // With fewer points than centroids the last point repeats; ties go to the lower number, so
            // the repeats are never used.
            let chosen: Vec<usize> = (0..ksub).map(|c| chosen[c.min(chosen.len() - 1)]).collect();
            let initial = points.view().select(&chosen).view().to_f32();
            let rows = backend.upload(Arc::new(points), Metric::L2)?;
            let trained = kmeans::lloyd(backend, &rows, initial, training.iterations)?;
            centroids.extend(trained.iter());
        }
        Ok(Self { dim, m: training.m, bits: training.bits, rotation: None, centroids })
    }

    /// Trains with a rotation (OPQ, the non-parametric alternation of the paper) starting from the
    /// identity, for `rounds` alternations of codes and rotation.
    pub fn train_opq<B: Backend>(
        backend: &B,
        sample: ArrayView2<'_, f32>,
        training: PqTraining,
        rounds: usize,
    ) -> Result<Self, BackendError> {
        let dim = sample.ncols();
        let mut rotation = Array2::<f32>::eye(dim);
        let short = PqTraining { iterations: 4.min(training.iterations), ..training };
        for _ in 0..rounds {
            let rotated = sample.dot(&rotation.t());
            let pq = Self::train(backend, rotated.view(), short)?;
            let decoded = pq.decode_all(pq.encode_all(backend, &rotated)?.view());
            // Orthogonal Procrustes: the rotation R that minimises |X R^T - Y| is U V^T of Y^T X.
            rotation = procrustes(&decoded.t().dot(&sample)).unwrap_or(rotation);
        }
        let rotated = sample.dot(&rotation.t());
        Ok(Self { rotation: Some(rotation), ..Self::train(backend, rotated.view(), training)? })
    }

    fn encode_all<B: Backend>(&self, backend: &B, rows: &Array2<f32>) -> Result<Array2<u8>, BackendError> {
        let rows = backend.upload(Arc::new(f32::into_rows(rows.clone())), Metric::L2)?;
        backend.pq_encode(&rows, None, self)
    }

    fn decode_all(&self, codes: ArrayView2<'_, u8>) -> Array2<f32> {
        let mut decoded = Array2::zeros((codes.nrows(), self.dim));
        for (code, mut row) in codes.outer_iter().zip(decoded.outer_iter_mut()) {
            let code: Vec<u8> = code.to_vec();
            for sub in 0..self.m {
                let centroid = self.centroid(sub, self.code_at(&code, sub));
                row.slice_mut(s![self.subspace(sub)]).assign(&ndarray::aview1(centroid));
            }
        }
        decoded
    }

    /// Mean squared error of coding `rows` `(n, dim)`: what decides whether a rotation pays.
    pub fn error<B: Backend>(&self, backend: &B, rows: ArrayView2<'_, f32>) -> Result<f64, BackendError> {
        let rotated = match &self.rotation {
            Some(rotation) => rows.dot(&rotation.t()),
            None => rows.to_owned(),
        };
        let plain = Self { rotation: None, ..self.clone() };
        let decoded = plain.decode_all(plain.encode_all(backend, &rotated)?.view());
        let squared: f64 = rotated.iter().zip(&decoded).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        Ok(squared / rows.nrows().max(1) as f64)
    }

    /// Coordinates of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Sub-spaces.
    pub fn m(&self) -> usize {
        self.m
    }

    /// Bits a sub-space.
    pub fn bits(&self) -> CodeBits {
        self.bits
    }

    /// The rotation `(dim, dim)`, if one was trained.
    pub fn rotation(&self) -> Option<&Array2<f32>> {
        self.rotation.as_ref()
    }

    /// Bytes of one row's code.
    pub fn code_bytes(&self) -> usize {
        match self.bits {
            CodeBits::Four => self.m.div_ceil(2),
            CodeBits::Eight => self.m,
        }
    }

    /// The coordinates of sub-space `sub`.
    pub fn subspace(&self, sub: usize) -> Range<usize> {
        subspace(self.dim, self.m, sub)
    }

    /// All centroids of sub-space `sub`, `(centroids, width)` row-major.
    pub fn subspace_centroids(&self, sub: usize) -> &[f32] {
        let range = self.subspace(sub);
        let ksub = self.bits.centroids();
        &self.centroids[range.start * ksub..range.end * ksub]
    }

    fn centroid(&self, sub: usize, code: usize) -> &[f32] {
        let width = self.subspace(sub).len();
        &self.subspace_centroids(sub)[code * width..(code + 1) * width]
    }

    /// The centroid number of sub-space `sub` in a packed code.
    #[inline(always)]
    pub fn code_at(&self, code: &[u8], sub: usize) -> usize {
        usize::from(match self.bits {
            CodeBits::Eight => code[sub],
            CodeBits::Four => (code[sub / 2] >> (4 * (sub % 2))) & 15,
        })
    }

    /// `rotation * x`, or x itself.
    pub fn rotate(&self, x: &[f32]) -> Vec<f32> {
        match &self.rotation {
            Some(rotation) => rotation.dot(&ndarray::aview1(x)).to_vec(),
            None => x.to_vec(),
        }
    }

    /// Squared L2 from `query` (dim, already rotated) to every centroid, `(m, centroids)` flat:
    /// a code's score is the sum of one entry a sub-space.
    pub fn l2_table(&self, query: &[f32]) -> Vec<f32> {
        tables::table(self, query, |q, c| (q - c) * (q - c))
    }

    /// Minus the dot product of `query` (dim, already rotated) with every centroid, `(m, centroids)` flat.
    pub fn dot_table(&self, query: &[f32]) -> Vec<f32> {
        tables::table(self, query, |q, c| -q * c)
    }

    /// Sums a code's entries of a table made by [`l2_table`](Self::l2_table) or [`dot_table`](Self::dot_table).
    #[inline(always)]
    pub fn score(&self, table: &[f32], code: &[u8]) -> f32 {
        match self.bits {
            CodeBits::Eight => {
                let entries = table.as_chunks::<256>().0.iter();
                entries.zip(code).map(|(scores, &c)| scores[usize::from(c)]).sum()
            }
            CodeBits::Four => {
                let entries = table.as_chunks::<16>().0.iter().enumerate();
                entries.map(|(sub, scores)| scores[self.code_at(code, sub)]).sum()
            }
        }
    }

    /// [`score`](Self::score) of four codes, to the bit, side by side: one sum does not wait for another.
    #[inline(always)]
    pub fn score_four(&self, table: &[f32], codes: [&[u8]; 4]) -> [f32; 4] {
        if self.bits == CodeBits::Four {
            return codes.map(|code| self.score(table, code));
        }
        // As `sum` begins.
        let mut sums = [-0.0f32; 4];
        let [a, b, c, d] = codes.map(|code| &code[..self.m]);
        let entries = table.as_chunks::<256>().0.iter();
        for ((((scores, &a), &b), &c), &d) in entries.zip(a).zip(b).zip(c).zip(d) {
            for (sum, code) in sums.iter_mut().zip([a, b, c, d]) {
                *sum += scores[usize::from(code)];
            }
        }
        sums
    }

    /// Serialises: u32 dim, u32 m, u32 bits, u32 has_rotation, rotation, centroids; little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let head = [self.dim as u32, self.m as u32, u32::from(u8::from(self.bits)), u32::from(self.rotation.is_some())];
        let mut bytes: Vec<u8> = bytemuck::cast_slice(&head).to_vec();
        for x in self.rotation.iter().flatten().chain(&self.centroids) {
            bytes.extend_from_slice(&x.to_le_bytes());
        }
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; the error says what does not fit.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let word = |i: usize| -> Result<usize, String> {
            let field = bytes.get(4 * i..4 * i + 4).ok_or("the quantiser is cut short")?;
            Ok(u32::from_le_bytes([field[0], field[1], field[2], field[3]]) as usize)
        };
        let (dim, m, rotated) = (word(0)?, word(1)?, word(3)? != 0);
        let bits = CodeBits::try_from(u8::try_from(word(2)?).map_err(|_| "the code width is not 4 or 8")?)?;
        if m == 0 || m > dim || dim > MAX_DIM {
            return Err(format!("{m} sub-spaces of {dim} coordinates"));
        }
        let rotation_len = if rotated { dim * dim } else { 0 };
        let expected = 16 + 4 * (rotation_len + bits.centroids() * dim);
        if bytes.len() != expected {
            return Err(format!("the quantiser has {} bytes, {expected} expected", bytes.len()));
        }
        let floats: Vec<f32> = bytes[16..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let (rotation, centroids) = floats.split_at(rotation_len);
        let rotation = rotated
            .then(|| Array2::from_shape_vec((dim, dim), rotation.to_vec()))
            .transpose()
            .map_err(|e| e.to_string())?;
        Ok(Self { dim, m, bits, rotation, centroids: centroids.to_vec() })
    }
}

fn subspace(dim: usize, m: usize, sub: usize) -> Range<usize> {
    let (width, wider) = (dim / m, dim % m);
    let start = |sub: usize| sub * width + sub.min(wider);
    start(sub)..start(sub + 1)
}

/// U V^T of the singular value decomposition of `matrix`, or `None` when it does not converge.
fn procrustes(matrix: &Array2<f32>) -> Option<Array2<f32>> {
    let n = matrix.nrows();
    let mat = Mat::<f64>::from_fn(n, n, |i, j| f64::from(matrix[(i, j)]));
    let svd = mat.svd().ok()?;
    let product = svd.U() * svd.V().transpose();
    Some(Array2::from_shape_fn((n, n), |(i, j)| product[(i, j)] as f32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::CpuBackend;
    use rand::RngExt;

    fn sample(n: usize, dim: usize) -> Array2<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        // Correlated coordinates: a rotation has something to gain.
        let mixing = Array2::from_shape_fn((dim, dim), |(i, j)| if i >= j { 1.0 / (1 + j) as f32 } else { 0.0 });
        Array2::from_shape_fn((n, dim), |_| rng.random::<f32>() - 0.5).dot(&mixing)
    }

    #[test]
    fn subspaces_cover_every_coordinate_once() {
        for (dim, m) in [(1, 1), (7, 3), (128, 32), (100, 7)] {
            let covered: Vec<usize> = (0..m).flat_map(|s| subspace(dim, m, s)).collect();
            assert_eq!(covered, (0..dim).collect::<Vec<_>>());
        }
    }

    #[test]
    fn tables_score_codes_as_their_reconstruction_does() {
        let backend = CpuBackend::new();
        let rows = sample(500, 10);
        for bits in [CodeBits::Four, CodeBits::Eight] {
            let pq = ProductQuantizer::train(&backend, rows.view(), PqTraining { m: 3, bits, iterations: 5, seed: 1 })
                .unwrap();
            let codes = pq.encode_all(&backend, &rows).unwrap();
            let decoded = pq.decode_all(codes.view());
            let query = rows.row(0).to_vec();
            let (l2, dot) = (pq.l2_table(&query), pq.dot_table(&query));
            for (code, row) in codes.outer_iter().zip(decoded.outer_iter()) {
                let code = code.to_vec();
                let expected_l2: f32 = row.iter().zip(&query).map(|(a, b)| (a - b) * (a - b)).sum();
                let expected_dot: f32 = -row.iter().zip(&query).map(|(a, b)| a * b).sum::<f32>();
                assert!((pq.score(&l2, &code) - expected_l2).abs() < 1e-4);
                assert!((pq.score(&dot, &code) - expected_dot).abs() < 1e-4);
            }
            let four: Vec<Vec<u8>> = (0..4).map(|row| codes.row(row * 7).to_vec()).collect();
            let alone = [0, 1, 2, 3].map(|i| pq.score(&l2, &four[i]).to_bits());
            assert_eq!(pq.score_four(&l2, [0, 1, 2, 3].map(|i| &four[i][..])).map(f32::to_bits), alone);
        }
    }

    #[test]
    fn a_rotation_lowers_the_error_of_correlated_rows_and_survives_storage() {
        let backend = CpuBackend::new();
        let rows = sample(2000, 16);
        let training = PqTraining { m: 4, bits: CodeBits::Four, iterations: 8, seed: 3 };
        let pq = ProductQuantizer::train(&backend, rows.view(), training).unwrap();
        let opq = ProductQuantizer::train_opq(&backend, rows.view(), training, 10).unwrap();
        assert!(opq.error(&backend, rows.view()).unwrap() < pq.error(&backend, rows.view()).unwrap());
        let rotation = opq.rotation().unwrap();
        let identity = rotation.dot(&rotation.t());
        assert!(identity.indexed_iter().all(|((i, j), x)| (x - f32::from(u8::from(i == j))).abs() < 1e-4));
        assert_eq!(ProductQuantizer::from_bytes(&opq.to_bytes()).unwrap(), opq);
        assert!(ProductQuantizer::from_bytes(&opq.to_bytes()[..40]).is_err());
    }
}
